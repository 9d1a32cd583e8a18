#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "kernels/cuda/cuda.h"
#include "kernels/reference/reference.h"
#include "tests/cuda_host/orders.h"

namespace nsa::kernels {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr int32_t kFailed = -9;

/// Rows for one call.
class Rows {
 public:
  void Add(std::vector<float> logits, const SampleParams& params) {
    logits_.push_back(std::move(logits));
    params_.push_back(params);
  }
  /// Tokens by the kernel, all rows in one launch or each in its own; kFailed where it failed.
  std::vector<int32_t> Cuda(bool together = true) const {
    Call call(*this);
    cuda::Stream stream;
    try {
      if (together) {
        cuda::SampleBatch(stream, call.params.data(), static_cast<int64_t>(call.params.size()));
      } else {
        for (const SampleParams& p : call.params) cuda::Sample(stream, p);
      }
    } catch (const cuda_host::Error&) {
      call.tokens.assign(call.tokens.size(), kFailed);
    }
    return call.tokens;
  }
  std::vector<int32_t> Reference() const {
    Call call(*this);
    for (const SampleParams& p : call.params) reference::Sample(p);
    return call.tokens;
  }

 private:
  /// Logits are overwritten.
  struct Call {
    explicit Call(const Rows& rows)
        : logits(rows.logits_), params(rows.params_), tokens(logits.size(), -8) {
      for (size_t i = 0; i < params.size(); ++i) {
        params[i].logits = logits[i].data();
        params[i].vocabulary_size = static_cast<int64_t>(logits[i].size());
        params[i].token_id = &tokens[i];
      }
    }
    std::vector<std::vector<float>> logits;
    std::vector<SampleParams> params;
    std::vector<int32_t> tokens;
  };
  std::vector<std::vector<float>> logits_;
  std::vector<SampleParams> params_;
};

int32_t Cuda(const std::vector<float>& logits, const SampleParams& params) {
  Rows rows;
  rows.Add(logits, params);
  return rows.Cuda()[0];
}

std::vector<float> RandomLogits(std::mt19937& random, size_t count, float scale) {
  std::normal_distribution<float> normal(0, scale);
  std::vector<float> values(count);
  for (float& value : values) value = normal(random);
  return values;
}

TEST(CudaSampleTest, GreedyTakesTheLowestIdOfTheLargest) {
  for (const size_t size : {1u, 31u, 33u, 1025u, 2100u}) {
    for (const size_t first : {size_t{0}, size / 2, size - 1}) {
      std::vector<float> logits(size, -3.0f);
      for (size_t i = first; i < size; i += 5) logits[i] = 2.5f;
      EXPECT_EQ(Cuda(logits, {.temperature = 0}), static_cast<int32_t>(first));
    }
  }
  EXPECT_EQ(Cuda({-kInfinity, -1e38f, -kInfinity}, {.temperature = 0}), 1);
  EXPECT_EQ(Cuda({0.0f, kInfinity, kInfinity}, {.temperature = 1}), 1);
  EXPECT_EQ(Cuda({-0.0f, 0.0f}, {.temperature = 0}), 0);
}

TEST(CudaSampleTest, NanAnywhereOrNothingLeftGivesNoToken) {
  for (const size_t at : {0u, 31u, 1500u}) {
    std::vector<float> logits(1501, 1.0f);
    logits[at] = kNan;
    const auto banned = static_cast<int32_t>(at);
    EXPECT_EQ(Cuda(logits, {.temperature = 0}), kLogitsNan);
    EXPECT_EQ(Cuda(logits, {.banned = &banned, .num_banned = 1}), kLogitsNan);
  }
  const std::vector<float> logits(40, 1.0f);
  std::vector<int32_t> all(40);
  std::iota(all.begin(), all.end(), 0);
  for (const float temperature : {0.0f, 1.0f}) {
    SampleParams p{.banned = all.data(), .num_banned = 40, .temperature = temperature};
    EXPECT_EQ(Cuda(logits, p), kNoToken);
    p.num_banned = 39;
    EXPECT_EQ(Cuda(logits, p), 39);
    EXPECT_EQ(Cuda(logits, {.allowed = all.data(), .num_allowed = 0, .temperature = temperature}),
              kNoToken);
  }
  EXPECT_EQ(Cuda(std::vector<float>(20, -kInfinity), {}), kNoToken);
}

TEST(CudaSampleTest, IdsOutsideTheVocabularyAreRefused) {
  const int32_t wrong = 3;
  EXPECT_EQ(Cuda({1, 2, 3}, {.banned = &wrong, .num_banned = 1}), kFailed);
  EXPECT_EQ(Cuda({1, 2, 3}, {.allowed = &wrong, .num_allowed = 1}), kFailed);
}

/// Lists for the steps before the draw, as requests have them.
struct Lists {
  Lists(std::mt19937& random, int32_t size) {
    const auto id = [&] { return static_cast<int32_t>(random() % static_cast<uint32_t>(size)); };
    for (int32_t i = 0; i < size; i += 1 + static_cast<int32_t>(random() % 9)) {
      counts.push_back({i, static_cast<int32_t>(random() % 3), static_cast<int32_t>(random() % 3)});
    }
    // Some ids twice.
    for (int i = 0; i < 20; ++i) biases.push_back({id(), static_cast<float>(i % 7) - 3});
    biases.push_back({biases[3].token_id, 0.1f});
    biases.push_back({biases[3].token_id, 0.2f});
    for (int i = 0; i < 30; ++i) banned.push_back(id());
    for (int i = 0; i < size / 2 + 1; ++i) allowed.push_back(id());
  }
  SampleParams With(SampleParams p, bool masks) const {
    p.counts = counts.data();
    p.num_counts = static_cast<int64_t>(counts.size());
    p.biases = biases.data();
    p.num_biases = static_cast<int64_t>(biases.size());
    p.repetition_penalty = 1.3f;
    p.presence_penalty = 0.2f;
    p.frequency_penalty = 0.15f;
    if (!masks) return p;
    p.banned = banned.data();
    p.num_banned = static_cast<int64_t>(banned.size());
    p.allowed = allowed.data();
    p.num_allowed = static_cast<int64_t>(allowed.size());
    return p;
  }
  std::vector<TokenCount> counts;
  std::vector<LogitBias> biases;
  std::vector<int32_t> banned, allowed;
};

constexpr SampleParams kSettings[] = {{},
                                      {.temperature = 0},
                                      {.temperature = 0.3f},
                                      {.temperature = 30},
                                      {.top_k = 5},
                                      {.temperature = 50, .top_k = 40},
                                      {.top_p = 0.9f},
                                      {.top_p = 1e-9f},
                                      {.temperature = 0.7f, .top_p = 0.9999f},
                                      {.min_p = 0.1f},
                                      {.min_p = 1},
                                      {.min_p = 1.5f},
                                      {.top_p = 0.95f, .min_p = 0.02f, .top_k = 64},
                                      {.top_k = 1000000},
                                      {.temperature = 1e-6f},
                                      {.temperature = 1e-40f},
                                      {.temperature = 1e30f}};

// More tokens than masses of 2⁻⁴⁴ leave room for in 63 bits: all alike, and a few better ones.
TEST(CudaSampleTest, VocabulariesOfAMillion) {
  for (const int size : {1 << 19, (1 << 20) + 37}) {
    Rows rows;
    for (uint64_t seed = 0; seed < 2; ++seed) {
      rows.Add(std::vector<float>(static_cast<size_t>(size), 0), {.seed = seed});
    }
    std::vector<float> logits(static_cast<size_t>(size), -1);
    for (int i = 0; i < 5; ++i) logits[static_cast<size_t>(size - 1 - 1000 * i)] = 2;
    rows.Add(logits, {.min_p = 0.9f, .seed = 1});
    rows.Add(logits, {.top_p = 1e-6f, .seed = 1});
    EXPECT_EQ(rows.Cuda(), rows.Reference()) << size;
  }
}

// Thousands of rows. Masses are rounded to 2⁻⁴⁴ of the best weight, the reference's weights to
// 2⁻⁵³ of theirs, so that the border between two of n tokens is moved by n·2⁻⁴⁴ at most, and a draw
// falls between the two with a chance of n²·2⁻⁴⁴ a row: 2·10⁻⁶ for 6,000 tokens. None is expected.
TEST(CudaSampleTest, DrawsEqualTheReference) {
  std::mt19937 random(1);
  Rows rows;
  for (const size_t size : {1u, 50u, 1000u, 6000u}) {
    for (const float scale : {0.01f, 1.0f, 5.0f}) {
      for (SampleParams p : kSettings) {
        for (p.step = 0; p.step < 8; ++p.step) {
          p.seed = random();
          rows.Add(RandomLogits(random, size, scale), p);
        }
      }
    }
  }
  EXPECT_EQ(rows.Cuda(), rows.Reference());
}

TEST(CudaSampleTest, PenaltiesBiasesAndMasksEqualTheReference) {
  std::mt19937 random(2);
  Rows rows;
  std::vector<Lists> lists;
  for (const int32_t size : {1, 40, 3000}) lists.emplace_back(random, size);
  for (size_t i = 0; i < lists.size(); ++i) {
    const size_t size = i == 0 ? 1 : i == 1 ? 40 : 3000;
    for (SampleParams p : kSettings) {
      for (const bool masks : {false, true}) {
        p.seed = random();
        rows.Add(RandomLogits(random, size, 2), lists[i].With(p, masks));
      }
    }
  }
  EXPECT_EQ(rows.Cuda(), rows.Reference());
}

// Logits with few different values: places in a tie are by id, and top_k cuts through ties.
TEST(CudaSampleTest, TiesEqualTheReference) {
  std::mt19937 random(3);
  Rows rows;
  for (const SampleParams& base : kSettings) {
    for (const int32_t top_k : {0, 3, 700}) {
      SampleParams p = base;
      if (top_k > 0) p.top_k = top_k;
      for (p.step = 0; p.step < 6; ++p.step) {
        std::vector<float> logits(1700);
        for (float& logit : logits) logit = static_cast<float>(random() % 4) * 0.5f;
        rows.Add(logits, p);
      }
    }
  }
  EXPECT_EQ(rows.Cuda(), rows.Reference());
}

// A large vocabulary, whose masks take several rounds.
TEST(CudaSampleTest, LargeVocabulariesEqualTheReference) {
  std::mt19937 random(4);
  constexpr int32_t kSize = 150'000;
  const Lists lists(random, 2000);
  std::vector<int32_t> allowed(kSize / 3);
  for (int32_t i = 0; i < kSize / 3; ++i) allowed[i] = 3 * i;
  Rows rows;
  for (const SampleParams& base :
       {SampleParams{}, SampleParams{.temperature = 0.8f, .top_p = 0.95f, .top_k = 50},
        SampleParams{.temperature = 20, .top_p = 0.99f}}) {
    for (const bool masks : {false, true}) {
      SampleParams p = lists.With(base, false);
      p.seed = random();
      if (masks) p.allowed = allowed.data(), p.num_allowed = kSize / 3;
      rows.Add(RandomLogits(random, kSize, 3), p);
    }
  }
  EXPECT_EQ(rows.Cuda(), rows.Reference());
}

/// Rows that go through every step, so that each barrier matters to one of them. `Best` tokens have
/// the largest logit; steps change some of them, and other threads look at them.
struct EveryStep {
  static constexpr int32_t kBest = 40;
  static std::vector<float> Logits(int32_t size) {
    std::mt19937 random(5);
    std::vector<float> logits = RandomLogits(random, static_cast<size_t>(size), 1);
    for (int32_t i = 0; i < kBest; ++i) logits[static_cast<size_t>(BestId(size, i))] = 9;
    return logits;
  }
  static int32_t BestId(int32_t size, int32_t i) { return size / (kBest + 1) * i + 33; }

  EveryStep() {
    constexpr int32_t kLarge = 70'000, kSmall = 5000;
    for (int32_t i = 0; i < kBest; ++i) {
      if (i >= 5) allowed.push_back(BestId(kLarge, i));
      if (i < 7) banned.insert(banned.begin(), BestId(kLarge, i));
      raised.push_back({BestId(kLarge, i), 0.1f * static_cast<float>(i)});
      counts.push_back({BestId(kSmall, i), 1, 1});
      lowered.insert(lowered.begin(), {BestId(kSmall, i), -1});
    }
    std::vector<float> wild(3000, 1.0f);
    wild[2999] = kNan;
    rows.Add(wild, {});
    const std::vector<float> large = Logits(kLarge);
    rows.Add(large, {.allowed = allowed.data(),
                     .num_allowed = static_cast<int64_t>(allowed.size()),
                     .temperature = 0});
    rows.Add(large, {.banned = banned.data(),
                     .num_banned = static_cast<int64_t>(banned.size()),
                     .temperature = 0});
    rows.Add(large, {.biases = raised.data(), .num_biases = kBest, .temperature = 0});
    SampleParams drawn{.counts = counts.data(),
                       .num_counts = kBest,
                       .biases = lowered.data(),
                       .num_biases = kBest,
                       .top_p = 0.9f,
                       .min_p = 0.01f,
                       .top_k = 3000,
                       .repetition_penalty = 3,
                       .presence_penalty = 1};
    for (; drawn.step < 3; ++drawn.step) rows.Add(Logits(kSmall), drawn);
    // (9 − 1) / 1.5 would be more than 9 / 1.5 − 1.
    drawn.temperature = 0;
    drawn.repetition_penalty = 1.5f;
    rows.Add(Logits(kSmall), drawn);
  }
  Rows rows;
  std::vector<int32_t> allowed, banned;
  std::vector<TokenCount> counts;
  std::vector<LogitBias> raised, lowered;
};

TEST(CudaSampleTest, HasNoRacesAndRowsDoNotDependOnTheirCall) {
  const EveryStep steps;
  const std::vector<int32_t> expected = steps.rows.Reference();
  EXPECT_EQ(cuda_host::InEveryOrder([&] { return steps.rows.Cuda(); }), expected);
  EXPECT_EQ(steps.rows.Cuda(false), expected);
}

TEST(CudaSampleTest, EveryBarrierIsMissed) {
  const EveryStep steps;
  int32_t num_errors = 0;
  cuda_host::ExpectEveryBarrierIsMissed([&] {
    std::vector<int32_t> tokens = steps.rows.Cuda();
    // A launch that fails in every order shows what is missing, too.
    if (tokens[0] == kFailed) tokens.push_back(num_errors++);
    return tokens;
  });
}

}  // namespace
}  // namespace nsa::kernels
