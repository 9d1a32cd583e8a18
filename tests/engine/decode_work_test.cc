// The work of a decode step, counted: operators called, bytes that they read, memory taken. What
// makes decoding slower without being wrong shows here, on any machine and however busy it is.

#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <map>
#include <memory>
#include <new>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "engine/loaded_model.h"
#include "tests/engine/counting_backend.h"

namespace {

std::atomic<int64_t> g_num_allocations{0};

void* Allocate(size_t size, size_t alignment) {
  g_num_allocations.fetch_add(1, std::memory_order_relaxed);
  void* memory = alignment > alignof(std::max_align_t)
                     ? std::aligned_alloc(alignment, (size + alignment - 1) / alignment * alignment)
                     : std::malloc(size);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}

// Not inlined: compilers that see through a replaced operator delete take its free for a mistake.
[[gnu::noinline]] void Release(void* memory) { std::free(memory); }

}  // namespace

void* operator new(size_t size) { return Allocate(size, 1); }
void* operator new[](size_t size) { return Allocate(size, 1); }
void* operator new(size_t size, std::align_val_t a) { return Allocate(size, size_t(a)); }
void* operator new[](size_t size, std::align_val_t a) { return Allocate(size, size_t(a)); }
void operator delete(void* memory) noexcept { Release(memory); }
void operator delete[](void* memory) noexcept { Release(memory); }
void operator delete(void* memory, size_t) noexcept { Release(memory); }
void operator delete[](void* memory, size_t) noexcept { Release(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { Release(memory); }
void operator delete[](void* memory, std::align_val_t) noexcept { Release(memory); }
void operator delete(void* memory, size_t, std::align_val_t) noexcept { Release(memory); }
void operator delete[](void* memory, size_t, std::align_val_t) noexcept { Release(memory); }

namespace nsa::engine {
namespace {

constexpr int64_t kContext = 1800;  // long enough that pages are chosen
constexpr int32_t kPages = 32;

class DecodeWorkTest : public testing::Test {
 protected:
  void SetUp() override {
    const char* path = std::getenv("NSA_TEST_MODEL");
    if (path == nullptr) GTEST_SKIP() << "NSA_TEST_MODEL names no model file";
    EngineOptions options;
    options.model_path = path;
    options.num_threads = 2;
    options.max_context = int64_t{kPages} * 64;
    options.max_running_requests = 2;
    options.wrap_backend = [this](std::unique_ptr<kernels::Backend> inner) {
      auto backend = std::make_unique<CountingBackend>(std::move(inner));
      counter_ = backend.get();
      return backend;
    };
    auto loaded = LoadModelWithCache(options);
    ASSERT_TRUE(loaded.ok()) << loaded.status();
    model_ = *std::move(loaded);
    std::mt19937 random(1);
    for (int64_t i = 0; i < kContext; ++i) {
      tokens_.push_back(static_cast<int32_t>(random() % 49152));
    }
  }

  /// Runs `num_tokens` tokens at `position` for each of `num_sequences`.
  void Step(int64_t position, int64_t num_tokens, int num_sequences) {
    batch_.entries.clear();
    batch_.num_rows = num_tokens * num_sequences;
    for (int i = 0; i < num_sequences; ++i) {
      pages_[i].resize(kPages);
      std::iota(pages_[i].begin(), pages_[i].end(), i * kPages);
      BatchEntry entry;
      entry.tokens = std::span<const int32_t>(tokens_).first(static_cast<size_t>(num_tokens));
      entry.num_cached = position;
      entry.page_table = pages_[i];
      entry.num_selected_blocks = model_->info.num_selected_blocks;
      entry.num_logit_rows = 1;
      batch_.entries.push_back(entry);
    }
    model_->runner->Run(batch_, [](size_t, int64_t, float*) {});
  }

  void Prefill(int num_sequences) {
    for (int64_t t = 0; t < kContext; t += 200) Step(t, 200, num_sequences);
  }

  std::unique_ptr<LoadedModel> model_;
  CountingBackend* counter_ = nullptr;
  std::vector<int32_t> tokens_;
  std::vector<int32_t> pages_[2];
  Batch batch_;
};

TEST_F(DecodeWorkTest, OperatorsAreCalledOnceALayer) {
  Prefill(1);
  counter_->Reset();
  Step(kContext, 1, 1);
  const int64_t layers = model_->info.num_layers;
  const std::map<std::string, int64_t> expected = {
      {"embed", 1},
      {"rms_norm", 2 * layers + 1},
      {"gemm", 4 * layers + 1},  // QKV, output, gate and up, down; the logits
      {"glu", layers},
      {"rope_kv_write", layers},
      {"cmp_cluster", layers},
      {"score_topk", layers},
      {"sel_attn", layers},  // with the window
      {"page_ages", layers},
  };
  EXPECT_EQ(counter_->calls(), expected);
}

/// Each weight is read once a step, whatever the number of rows; and no wider than in the file, but
/// for the packing's rest.
TEST_F(DecodeWorkTest, WeightsAreReadOnceAStep) {
  Prefill(2);
  counter_->Reset();
  Step(kContext, 1, 1);
  const int64_t alone = counter_->weight_bytes();
  EXPECT_LE(alone, model_->model->packed_bytes);
  EXPECT_LE(alone, model_->checkpoint->file_bytes() * 11 / 10);
  counter_->Reset();
  Step(kContext, 1, 2);
  EXPECT_EQ(counter_->weight_bytes(), alone);
}

TEST_F(DecodeWorkTest, AttentionReadsAsManyTokensAsThePlanSays) {
  const AttentionReads reads = model_->runner->plan().CountReads(60'000, 16);
  EXPECT_EQ(reads.slc, 16 * 64);
  EXPECT_LE(reads.win, 512 + 64);
  EXPECT_LE(reads.cmp, 60'000 / 8);
  // Bytes read per KV head, beside those of full attention: a sixteenth.
  const KvLayout& layout = model_->cache->layout();
  const int64_t token_bytes = layout.SlotBytes() / kernels::kPageSize;
  const int64_t row_bytes = layout.CmpSlotBytes() / layout.cmp_rows_per_page;
  const int64_t bytes = (reads.slc + reads.win) * token_bytes + reads.cmp * row_bytes;
  EXPECT_LT(bytes * 16, int64_t{60'000} * token_bytes);
}

TEST_F(DecodeWorkTest, ADecodeStepTakesNoMemory) {
  for (const int num_sequences : {1, 2}) {
    Prefill(num_sequences);
    for (int64_t t = kContext; t < kContext + 3; ++t) Step(t, 1, num_sequences);
    const int64_t before = g_num_allocations;
    // Past the end of a page, where clusters are made.
    for (int64_t t = kContext + 3; t < kContext + 140; ++t) Step(t, 1, num_sequences);
    EXPECT_EQ(g_num_allocations - before, 0) << num_sequences << " sequences";
    const auto witness = std::make_unique<int>(1);
    EXPECT_EQ(g_num_allocations - before, *witness) << "allocations are not seen";
  }
}

}  // namespace
}  // namespace nsa::engine
