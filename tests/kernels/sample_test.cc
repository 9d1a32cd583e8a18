#include "kernels/ops/sample.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <random>
#include <set>
#include <vector>

#include "kernels/cpu/cpu.h"
#include "kernels/reference/reference.h"
#include "tests/kernels/cpu_targets.h"

namespace nsa::kernels {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

class SampleTest : public CpuTargetTest {
 protected:
  int32_t Cpu(const std::vector<float>& logits, SampleParams p) {
    std::vector<float> copy = logits;
    int32_t token_id = -9;
    p.logits = copy.data();
    p.vocabulary_size = static_cast<int64_t>(copy.size());
    p.token_id = &token_id;
    cpu::Sample(context_, p);
    return token_id;
  }
  static int32_t Reference(const std::vector<float>& logits, SampleParams p) {
    std::vector<float> copy = logits;
    int32_t token_id = -9;
    p.logits = copy.data();
    p.vocabulary_size = static_cast<int64_t>(copy.size());
    p.token_id = &token_id;
    reference::Sample(p);
    return token_id;
  }
  cpu::Context context_{1};
};

std::vector<float> RandomLogits(std::mt19937& rng, size_t count, float scale) {
  std::normal_distribution<float> normal(0, scale);
  std::vector<float> values(count);
  for (float& value : values) value = normal(rng);
  return values;
}

TEST_P(SampleTest, GreedyTakesTheLowestIdOfTheLargest) {
  for (size_t size : {1u, 2u, 15u, 16u, 17u, 33u, 100u}) {
    for (size_t first = 0; first < size; ++first) {
      std::vector<float> logits(size, -3.0f);
      for (size_t i = first; i < size; i += 5) logits[i] = 2.5f;
      EXPECT_EQ(Cpu(logits, {.temperature = 0}), static_cast<int32_t>(first));
    }
  }
  EXPECT_EQ(Cpu({-kInfinity, -1e38f, -kInfinity}, {.temperature = 0}), 1);
  EXPECT_EQ(Cpu({0.0f, kInfinity, kInfinity}, {.temperature = 1}), 1);
}

TEST_P(SampleTest, NanAnywhereGivesNoToken) {
  for (size_t size : {1u, 7u, 16u, 50u}) {
    for (size_t at = 0; at < size; ++at) {
      std::vector<float> logits(size, 1.0f);
      logits[at] = kNan;
      EXPECT_EQ(Cpu(logits, {.temperature = 0}), kLogitsNan);
      EXPECT_EQ(Cpu(logits, {.temperature = 1}), kLogitsNan);
      const auto banned = static_cast<int32_t>(at);
      EXPECT_EQ(Cpu(logits, {.banned = &banned, .num_banned = 1}), kLogitsNan);
      EXPECT_EQ(Reference(logits, {.temperature = 1}), kLogitsNan);
    }
  }
}

TEST_P(SampleTest, NothingLeftGivesNoToken) {
  const std::vector<float> logits(40, 1.0f);
  std::vector<int32_t> all(40);
  std::iota(all.begin(), all.end(), 0);
  for (float temperature : {0.0f, 1.0f}) {
    SampleParams p{.banned = all.data(), .num_banned = 40, .temperature = temperature};
    EXPECT_EQ(Cpu(logits, p), kNoToken);
    p.num_banned = 39;
    EXPECT_EQ(Cpu(logits, p), 39);
    EXPECT_EQ(Cpu(logits, {.allowed = all.data(), .num_allowed = 0, .temperature = temperature}),
              kNoToken);
  }
  EXPECT_EQ(Cpu(std::vector<float>(20, -kInfinity), {}), kNoToken);
}

TEST_P(SampleTest, AllowedAndBanned) {
  std::vector<float> logits(64);
  std::iota(logits.begin(), logits.end(), 0.0f);
  const int32_t allowed[] = {5, 3, 9, 5}, banned[] = {9};
  SampleParams p{.allowed = allowed, .num_allowed = 4, .temperature = 0};
  EXPECT_EQ(Cpu(logits, p), 9);
  p.banned = banned;
  p.num_banned = 1;
  EXPECT_EQ(Cpu(logits, p), 5);
  p.temperature = 100;
  std::set<int32_t> drawn;
  for (p.step = 0; p.step < 200; ++p.step) drawn.insert(Cpu(logits, p));
  EXPECT_EQ(drawn, (std::set<int32_t>{3, 5}));
}

TEST_P(SampleTest, PenaltiesAndBiasInTheirOrder) {
  // Repetition divides positive and multiplies negative logits, for prompt and generated tokens.
  const TokenCount in_prompt{.token_id = 0, .num_in_prompt = 1, .num_generated = 0};
  SampleParams p{.counts = &in_prompt, .num_counts = 1, .temperature = 0};
  EXPECT_EQ(Cpu({2.0f, 1.5f}, p), 0);
  p.repetition_penalty = 2;
  EXPECT_EQ(Cpu({2.0f, 1.5f}, p), 1);
  EXPECT_EQ(Cpu({-1.0f, -1.5f}, p), 1);
  // Frequency and presence: generated tokens only.
  p = {.counts = &in_prompt,
       .num_counts = 1,
       .temperature = 0,
       .presence_penalty = 10,
       .frequency_penalty = 10};
  EXPECT_EQ(Cpu({2.0f, 1.5f}, p), 0);
  const TokenCount generated{.token_id = 0, .num_in_prompt = 0, .num_generated = 3};
  p = {.counts = &generated, .num_counts = 1, .temperature = 0, .frequency_penalty = 0.2f};
  EXPECT_EQ(Cpu({2.0f, 1.5f}, p), 1);  // 2 − 0.6
  EXPECT_EQ(Cpu({2.2f, 1.5f}, p), 0);
  p.presence_penalty = 0.2f;
  EXPECT_EQ(Cpu({2.2f, 1.5f}, p), 1);  // 2.2 − 0.8
  // Bias comes after the penalties; repetition would else change it.
  const LogitBias bias{.token_id = 0, .bias = 1};
  p = {.counts = &generated,
       .num_counts = 1,
       .biases = &bias,
       .num_biases = 1,
       .temperature = 0,
       .repetition_penalty = 2};
  EXPECT_EQ(Cpu({2.0f, 1.9f}, p), 0);  // 2 / 2 + 1, not (2 + 1) / 2
  const LogitBias never{.token_id = 0, .bias = -kInfinity};
  p.biases = &never;
  EXPECT_EQ(Cpu({2.0f, -1.9f}, p), 1);
}

TEST_P(SampleTest, IdsOutsideTheVocabularyAreOurBug) {
  const int32_t banned = 3;
  const SampleParams p{.banned = &banned, .num_banned = 1};
  EXPECT_DEATH(Cpu({1.0f, 2.0f, 3.0f}, p), "check failed");
}

TEST_P(SampleTest, DrawsAgreeWithTheReference) {
  std::mt19937 rng(1);
  int num_different = 0, num_draws = 0;
  for (size_t size : {3u, 50u, 1000u, 5000u}) {
    for (float scale : {0.01f, 1.0f, 5.0f}) {
      const std::vector<float> logits = RandomLogits(rng, size, scale);
      for (const SampleParams& base :
           {SampleParams{}, SampleParams{.temperature = 0.3f}, SampleParams{.temperature = 30},
            SampleParams{.top_k = 1}, SampleParams{.top_k = 5},
            SampleParams{.temperature = 50, .top_k = 40}, SampleParams{.top_p = 0.9f},
            SampleParams{.top_p = 1e-9f}, SampleParams{.top_p = 0.9999f},
            SampleParams{.min_p = 0.1f}, SampleParams{.min_p = 1},
            SampleParams{.top_p = 0.95f, .min_p = 0.02f, .top_k = 64},
            SampleParams{.top_k = 1000000}, SampleParams{.temperature = 1e-6f},
            SampleParams{.temperature = 1e-40f}, SampleParams{.temperature = 1e30f}}) {
        SampleParams p = base;
        p.seed = rng();
        for (p.step = 0; p.step < 8; ++p.step, ++num_draws) {
          const int32_t token_id = Cpu(logits, p);
          ASSERT_GE(token_id, 0);
          ASSERT_LT(token_id, static_cast<int32_t>(size));
          num_different += token_id != Reference(logits, p);
        }
      }
    }
  }
  // Weights are summed in float here and in double there: a draw within 1e-6 of a border may
  // differ.
  EXPECT_LE(num_different, num_draws / 500);
}

TEST_P(SampleTest, TopKKeepsTheLowestIdsAmongTies) {
  const std::vector<float> logits(200, 1.0f);
  std::set<int32_t> drawn;
  SampleParams p{.top_k = 3};
  for (p.step = 0; p.step < 300; ++p.step) drawn.insert(Cpu(logits, p));
  EXPECT_EQ(drawn, (std::set<int32_t>{0, 1, 2}));
}

TEST_P(SampleTest, TopPKeepsTheSmallestPrefixThatReachesIt) {
  const std::vector<float> logits = {std::log(0.1f), std::log(0.5f), std::log(0.15f),
                                     std::log(0.25f)};
  const auto drawn = [&](float top_p) {
    std::set<int32_t> ids;
    SampleParams p{.top_p = top_p};
    for (p.step = 0; p.step < 400; ++p.step) ids.insert(Cpu(logits, p));
    return ids;
  };
  EXPECT_EQ(drawn(1e-6f), (std::set<int32_t>{1}));
  EXPECT_EQ(drawn(0.49f), (std::set<int32_t>{1}));
  EXPECT_EQ(drawn(0.6f), (std::set<int32_t>{1, 3}));
  EXPECT_EQ(drawn(0.8f), (std::set<int32_t>{1, 2, 3}));
  EXPECT_EQ(drawn(0.95f), (std::set<int32_t>{0, 1, 2, 3}));
}

// Pearson's statistic of draws against the expected probabilities. With the number of cells less
// one as its mean, it exceeds mean + 5·sqrt(2·mean) about once in a million for a true generator.
void ExpectDistribution(const std::vector<int64_t>& counts, const std::vector<double>& expected) {
  const auto num_draws =
      static_cast<double>(std::accumulate(counts.begin(), counts.end(), int64_t{0}));
  double statistic = 0;
  int num_cells = 0;
  for (size_t i = 0; i < counts.size(); ++i) {
    if (expected[i] == 0) {
      EXPECT_EQ(counts[i], 0) << i;
      continue;
    }
    const double mean = expected[i] * num_draws;
    statistic += std::pow(static_cast<double>(counts[i]) - mean, 2) / mean;
    ++num_cells;
  }
  const double freedom = num_cells - 1;
  EXPECT_LT(statistic, freedom + 5 * std::sqrt(2 * freedom)) << num_cells << " cells";
}

TEST_P(SampleTest, DistributionIsTheSoftmax) {
  const std::vector<float> logits = {0.0f, 1.0f,  -1.0f, 2.0f, 0.5f, -0.5f, 1.5f, -kInfinity, 0.2f,
                                     0.9f, -2.0f, 1.1f,  0.3f, 0.3f, 0.3f,  0.7f, -0.1f};
  for (float temperature : {0.7f, 1.0f, 3.0f}) {
    for (bool by_step : {true, false}) {
      std::vector<int64_t> counts(logits.size());
      for (uint64_t i = 0; i < 20000; ++i) {
        const SampleParams p{
            .temperature = temperature, .seed = by_step ? 42 : i, .step = by_step ? i : 7};
        const int32_t token_id = Cpu(logits, p);
        ASSERT_GE(token_id, 0);
        ++counts[static_cast<size_t>(token_id)];
      }
      std::vector<double> expected;
      for (float logit : logits) expected.push_back(std::exp(double{logit} / double{temperature}));
      const double total = std::accumulate(expected.begin(), expected.end(), 0.0);
      for (double& value : expected) value /= total;
      ExpectDistribution(counts, expected);
    }
  }
}

// Neighbouring steps and seeds must not be correlated: pairs of draws are uniform over pairs.
TEST_P(SampleTest, ConsecutiveDrawsAreIndependent) {
  const std::vector<float> logits(8, 0.0f);
  for (bool by_step : {true, false}) {
    std::vector<int64_t> counts(64);
    for (uint64_t i = 0; i < 16000; ++i) {
      SampleParams p{.seed = 1, .step = 1};
      (by_step ? p.step : p.seed) = 2 * i;
      const int32_t first = Cpu(logits, p);
      ++(by_step ? p.step : p.seed);
      ++counts[static_cast<size_t>(first * 8 + Cpu(logits, p))];
    }
    ExpectDistribution(counts, std::vector<double>(64, 1.0 / 64));
  }
}

TEST_P(SampleTest, TheDrawDependsOnSeedAndStepAlone) {
  std::mt19937 rng(3);
  const std::vector<float> logits = RandomLogits(rng, 300, 1);
  const SampleParams p{.seed = 5, .step = 9};
  const int32_t first = Cpu(logits, p);
  Cpu(RandomLogits(rng, 77, 2), {.seed = 1});
  EXPECT_EQ(Cpu(logits, p), first);
}

TEST_P(SampleTest, ExtremeTemperatures) {
  const std::vector<float> logits = {1.0f, 1.0001f, -5.0f, 1.0f};
  for (uint64_t step = 0; step < 50; ++step) {
    EXPECT_EQ(Cpu(logits, {.temperature = 1e-6f, .step = step}), 1);
  }
  std::vector<int64_t> counts(4);
  for (uint64_t step = 0; step < 8000; ++step) {
    ++counts[static_cast<size_t>(Cpu(logits, {.temperature = 1e6f, .step = step}))];
  }
  ExpectDistribution(counts, std::vector<double>(4, 0.25));
}

NSA_INSTANTIATE_CPU_TARGETS(SampleTest);

}  // namespace
}  // namespace nsa::kernels
