// The promise under everything: a token's logits do not depend on chunks, threads or batch, in
// every bit. With the default model, so that every layer and operator of the real path takes part.

#include "engine/model_runner.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <numeric>
#include <random>
#include <vector>

#include "engine/loaded_model.h"

namespace nsa::engine {
namespace {

constexpr int64_t kNumTokens = 1500;
constexpr int32_t kPagesEach = 32;

/// Positions whose logits are compared: around every page and window border that matters.
bool Compared(int64_t position) {
  const int64_t in_page = position % 64;
  return in_page >= 62 || in_page <= 1 || position % 97 == 0 || position >= kNumTokens - 2;
}

using Logits = std::map<int64_t, std::vector<float>>;  // by position

class ModelRunnerTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    const char* path = std::getenv("NSA_TEST_MODEL");
    if (path == nullptr) return;
    model_path_ = path;
    std::mt19937 random(5);
    for (int64_t i = 0; i < kNumTokens; ++i) {
      tokens_.push_back(static_cast<int32_t>(random() % 49152));
    }
  }

  void SetUp() override {
    if (model_path_.empty()) GTEST_SKIP() << "NSA_TEST_MODEL names no model file";
  }

  std::unique_ptr<LoadedModel> Load(AttentionFlag attention, int num_threads,
                                    int32_t num_selected_blocks = 0) {
    EngineOptions options;
    options.model_path = model_path_;
    options.attention = attention;
    options.num_threads = num_threads;
    options.num_selected_blocks = num_selected_blocks;
    options.max_context = 2048;
    options.max_running_requests = 3;
    auto loaded = LoadModelWithCache(options);
    EXPECT_TRUE(loaded.ok()) << loaded.status();
    return *std::move(loaded);
  }

  /// Runs the tokens in chunks on pages from `first_page`, in an order that `reversed` turns round.
  static Logits Run(LoadedModel& model, int64_t chunk, int32_t first_page = 0,
                    bool reversed = false) {
    std::vector<int32_t> pages(kPagesEach);
    std::iota(pages.begin(), pages.end(), first_page);
    if (reversed) std::reverse(pages.begin(), pages.end());
    Logits result;
    for (int64_t begin = 0; begin < kNumTokens; begin += chunk) {
      const int64_t size = std::min(chunk, kNumTokens - begin);
      Batch batch;
      batch.num_rows = size;
      batch.entries.push_back(Entry(model, begin, size, pages));
      model.runner->Run(batch, [&](size_t, int64_t row, float* logits) {
        Keep(model, begin + row, logits, result);
      });
    }
    return result;
  }

  static BatchEntry Entry(const LoadedModel& model, int64_t begin, int64_t size,
                          const std::vector<int32_t>& pages) {
    BatchEntry entry;
    entry.tokens = std::span<const int32_t>(tokens_).subspan(static_cast<size_t>(begin),
                                                             static_cast<size_t>(size));
    entry.num_cached = begin;
    entry.page_table = pages;
    entry.num_selected_blocks = model.info.num_selected_blocks;
    // From the first compared position of the chunk on.
    int64_t first = begin;
    while (first < begin + size && !Compared(first)) ++first;
    entry.num_logit_rows = static_cast<int32_t>(begin + size - first);
    return entry;
  }

  static void Keep(const LoadedModel& model, int64_t position, const float* logits,
                   Logits& result) {
    if (Compared(position)) result[position].assign(logits, logits + model.info.vocabulary_size);
  }

  static void ExpectSameBits(const Logits& a, const Logits& b) {
    ASSERT_EQ(a.size(), b.size());
    for (const auto& [position, logits] : a) {
      ASSERT_EQ(std::memcmp(logits.data(), b.at(position).data(), logits.size() * sizeof(float)), 0)
          << "position " << position;
    }
  }

  static inline std::string model_path_;
  static inline std::vector<int32_t> tokens_;
};

TEST_F(ModelRunnerTest, ChunksThreadsAndPagesDoNotChangeABit) {
  for (const AttentionFlag attention : {AttentionFlag::kNsa, AttentionFlag::kFull}) {
    // n = 4 on 1,500 tokens: selection really chooses.
    const int32_t blocks = attention == AttentionFlag::kNsa ? 4 : 0;
    auto one = Load(attention, 1, blocks);
    const Logits whole = Run(*one, 512);
    auto two = Load(attention, 2, blocks);
    ExpectSameBits(whole, Run(*two, 512));
    ExpectSameBits(whole, Run(*two, 64, kPagesEach, true));
    ExpectSameBits(whole, Run(*two, 7));
    ExpectSameBits(whole, Run(*two, 1));
    auto three = Load(attention, 3, blocks);
    ExpectSameBits(whole, Run(*three, 301));
  }
}

TEST_F(ModelRunnerTest, BatchDoesNotChangeABit) {
  auto model = Load(AttentionFlag::kNsa, 2, 4);
  const Logits alone = Run(*model, 100);
  // Three copies of the sequence at different places, in one batch, with a full-attention one
  // between.
  std::vector<std::vector<int32_t>> pages(3, std::vector<int32_t>(kPagesEach));
  for (int s = 0; s < 3; ++s) {
    std::iota(pages[static_cast<size_t>(s)].begin(), pages[static_cast<size_t>(s)].end(),
              s * kPagesEach);
  }
  int64_t done[3] = {0, 0, 0};
  const int64_t chunk[3] = {90, 1, 33};
  Logits first, third;
  while (done[0] < kNumTokens || done[2] < kNumTokens) {
    Batch batch;
    std::vector<int> who;
    for (int s : {2, 1, 0}) {
      const int64_t size = std::min(chunk[s], kNumTokens - done[s]);
      if (size == 0) continue;
      batch.entries.push_back(Entry(*model, done[s], size, pages[static_cast<size_t>(s)]));
      batch.entries.back().full_attention = s == 1;
      batch.num_rows += size;
      who.push_back(s);
    }
    model->runner->Run(batch, [&](size_t entry, int64_t row, float* logits) {
      const int s = who[entry];
      if (s == 0) Keep(*model, done[s] + row, logits, first);
      if (s == 2) Keep(*model, done[s] + row, logits, third);
    });
    for (size_t e = 0; e < who.size(); ++e) {
      done[who[e]] += static_cast<int64_t>(batch.entries[e].tokens.size());
    }
  }
  ExpectSameBits(alone, first);
  ExpectSameBits(alone, third);
}

TEST_F(ModelRunnerTest, AllPagesSelectedIsFullAttention) {
  auto full = Load(AttentionFlag::kFull, 2);
  auto nsa = Load(AttentionFlag::kNsa, 2, 32);  // 32 pages and the window hold 1,500 tokens
  const Logits a = Run(*full, 512), b = Run(*nsa, 512);
  for (const auto& [position, logits] : a) {
    double dot = 0, aa = 0, bb = 0;
    for (size_t i = 0; i < logits.size(); ++i) {
      const double x = logits[i], y = b.at(position)[i];
      dot += x * y;
      aa += x * x;
      bb += y * y;
    }
    EXPECT_GT(dot / std::sqrt(aa * bb), 0.99999) << "position " << position;
  }
}

}  // namespace
}  // namespace nsa::engine
