#include "engine/attention/plan.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <vector>

#include "engine/kv_cache.h"
#include "kernels/backend.h"
#include "tests/engine/passing_backend.h"

namespace nsa::engine {
namespace {

constexpr AttentionShape kShape = {
    .num_q_heads = 9, .num_kv_heads = 3, .head_dim_k = 64, .head_dim_v = 48, .scale = 0.125f};

AttentionPlan Resolve(const AttentionSpec& spec) {
  auto plan = AttentionPlan::Resolve(spec, kShape);
  EXPECT_TRUE(plan.ok()) << plan.status();
  return *std::move(plan);
}

TEST(AttentionPlan, CountsWhatFullAttentionReads) {
  const AttentionReads reads = Resolve(FullAttentionSpec()).CountReads(999, 16);
  EXPECT_EQ(reads.cmp, 0);
  EXPECT_EQ(reads.slc, 0);
  EXPECT_EQ(reads.win, 1000);
}

TEST(AttentionPlan, CountsClustersOfTheCandidatesAlone) {
  const AttentionPlan plan = Resolve(TrainingFreeSpec(8192));
  // Position 10,000 stands in page 156; its window begins at page 148.
  const AttentionReads far = plan.CountReads(10'000, 16);
  EXPECT_EQ(far.win, 10'001 - 148 * 64);
  EXPECT_EQ(far.slc, 16 * 64);
  EXPECT_EQ(far.cmp, 148 * 8);
  // 16 candidates all fit: nothing is scored.
  const AttentionReads near = plan.CountReads(24 * 64, 16);
  EXPECT_EQ(near.slc, 16 * 64);
  EXPECT_EQ(near.cmp, 0);
  EXPECT_EQ(plan.CountReads(24 * 64, 15).cmp, 16 * 8);
}

TEST(AttentionPlan, CountsWindowsThatHaveEnded) {
  AttentionSpec spec;
  spec.sparse = true;
  spec.compressed_values = true;
  const AttentionPlan plan = Resolve(spec);
  const AttentionReads reads = plan.CountReads(2000, 16);
  EXPECT_EQ(reads.cmp, (2001 - 32) / 16 + 1);
  EXPECT_EQ(reads.slc, 16 * 64);
  EXPECT_EQ(reads.win, 512);
  EXPECT_EQ(plan.CountReads(30, 16).cmp, 0);
}

TEST(AttentionPlan, ShortSequencesAreReadWhole) {
  AttentionSpec spec;
  spec.sparse = true;
  spec.window_size = 0;
  spec.combination = Combination::kSelectedAlone;
  spec.dense_length = 2000;
  const AttentionPlan plan = Resolve(spec);
  EXPECT_EQ(plan.num_branches(), 1);
  EXPECT_EQ(plan.NumSelected(0, 16), 1);
  EXPECT_EQ(plan.NumSelected(1998, 16), 32);  // sees 1,999 tokens in 32 blocks
  EXPECT_EQ(plan.NumSelected(1999, 16), 16);
  const AttentionReads dense = plan.CountReads(1998, 16);
  EXPECT_EQ(dense.slc, 1999);
  EXPECT_EQ(dense.cmp + dense.win, 0);
  const AttentionReads sparse = plan.CountReads(1999, 16);
  EXPECT_EQ(sparse.slc, 16 * 64);
  EXPECT_EQ(sparse.cmp, (2000 - 32) / 16 + 1);
  EXPECT_EQ(sparse.win, 0);
}

TEST(AttentionWorkspace, CountsThePagesThatWereSelectedByAge) {
  const auto backend = kernels::MakeReferenceBackend();
  AttentionWorkspace workspace(*backend, kShape, 4, 3);
  std::fill_n(workspace.num_selected(), 4 * 3, 0);
  std::fill_n(workspace.selected(), 4 * 3 * 3, -1);
  // Row 2 stands at position 640, page 10; it is the second row of the second segment.
  const auto select = [&](int row, int head, std::vector<int32_t> blocks) {
    const int list = row * 3 + head;
    workspace.num_selected()[list] = static_cast<int32_t>(blocks.size());
    std::copy(blocks.begin(), blocks.end(), workspace.selected() + list * 3);
  };
  select(0, 0, {0});         // page 0 of page 0
  select(2, 1, {0, 7, 10});  // 10, 3 and 0 pages back
  select(2, 2, {9});         // 1 page back
  const kernels::AttentionSegment segments[] = {{nullptr, 0, 0, 1}, {nullptr, 639, 1, 2}};
  kernels::AttentionQuery query;
  query.segments = segments;
  query.num_segments = 2;
  query.kv.num_kv_heads = 3;
  workspace.CountAges(*backend, query, 64);
  const PageAges ages = workspace.TakeAges(*backend);
  EXPECT_EQ(ages[PageAge(0)], 2);
  EXPECT_EQ(ages[PageAge(1)], 1);
  EXPECT_EQ(ages[PageAge(3)], 1);
  EXPECT_EQ(ages[PageAge(10)], 1);
  EXPECT_EQ(std::accumulate(ages.begin(), ages.end(), int64_t{0}), 5);
  EXPECT_EQ(workspace.TakeAges(*backend), PageAges{});
  EXPECT_EQ(PageAge(2), PageAge(3));
  EXPECT_EQ(PageAge(8), PageAge(15));
  EXPECT_NE(PageAge(15), PageAge(16));
  EXPECT_EQ(PageAge(int64_t{1} << 40), kNumPageAges - 1);
}

/// Counts what a device would have to be waited for.
class WaitCounter final : public PassingBackend {
 public:
  using PassingBackend::PassingBackend;
  void Write(void* target, const void* source, int64_t num_bytes) override {
    ++num_waits;
    PassingBackend::Write(target, source, num_bytes);
  }
  void Read(void* target, const void* source, int64_t num_bytes) override {
    ++num_waits;
    PassingBackend::Read(target, source, num_bytes);
  }
  int num_waits = 0;
};

// A step without selection waits for nothing, one with it once.
TEST(AttentionWorkspace, AgesAreWaitedForOnceAStep) {
  WaitCounter backend(kernels::MakeReferenceBackend());
  AttentionWorkspace workspace(backend, kShape, 1, 1);
  std::fill_n(workspace.num_selected(), 3, 1);
  std::fill_n(workspace.selected(), 3, 0);
  const kernels::AttentionSegment segment = {nullptr, 0, 0, 1};
  kernels::AttentionQuery query;
  query.segments = &segment;
  query.num_segments = 1;
  query.kv.num_kv_heads = 3;
  backend.num_waits = 0;
  EXPECT_EQ(workspace.TakeAges(backend), PageAges{});
  EXPECT_EQ(backend.num_waits, 0);
  for (int step = 0; step < 2; ++step) {
    workspace.CountAges(backend, query, 64);
    EXPECT_EQ(workspace.TakeAges(backend)[PageAge(0)], 3);
    EXPECT_EQ(backend.num_waits, step + 1);
  }
}

/// Compressed rows that choose pages hold keys, scales and biases one after the other, and no more;
/// those with values have a plane for a head's keys and one for its values.
TEST(KvLayout, CompressedRowsFillTheirSpace) {
  AttentionSpec windows;
  windows.sparse = true;
  windows.compressed_values = true;
  const struct {
    AttentionSpec spec;
    kernels::DType dtype;
    int64_t bytes;  // of one head's compressed rows of a page
    int64_t v_offset, scale_offset, bias_offset;
    int64_t page_stride, head_stride;
  } cases[] = {
      {TrainingFreeSpec(8192), kernels::DType::kF16, 8 * 72, -1, 8 * 64, 8 * 68, 3 * 8 * 72,
       8 * 72},
      {TrainingFreeSpec(8192), kernels::DType::kF32, 8 * 260, -1, -1, 8 * 256, 3 * 8 * 260,
       8 * 260},
      {windows, kernels::DType::kF16, 2 * 512, 5 * 512, -1, -1, 512, 2 * 5 * 512},
      {windows, kernels::DType::kInt8, 2 * 512, 5 * 512, -1, -1, 512, 2 * 5 * 512},
      {FullAttentionSpec(), kernels::DType::kF16, 0, -1, -1, -1, 0, 0},
  };
  for (const auto& c : cases) {
    SCOPED_TRACE(Describe(c.spec));
    const KvLayout layout = KvLayout::For(c.spec, kShape, 2, c.dtype);
    EXPECT_EQ(layout.CmpSlotBytes(), 3 * c.bytes);
    const int64_t scale_bytes = c.dtype == kernels::DType::kInt8 ? 2 * 4 : 0;
    const auto element = static_cast<int64_t>(kernels::SizeOf(c.dtype));
    EXPECT_EQ(layout.SlotBytes(), 3 * 64 * ((64 + 48) * element + scale_bytes));
    const auto cache = KvCache::Create(*kernels::MakeReferenceBackend(), layout, 5);
    ASSERT_TRUE(cache.ok()) << cache.status();
    const kernels::PagedKv view = (*cache)->view(1);
    EXPECT_EQ(view.cmp_v_offset, c.v_offset);
    EXPECT_EQ(view.cmp_scale_offset, c.scale_offset);
    EXPECT_EQ(view.cmp_page_stride, c.page_stride);
    EXPECT_EQ(view.cmp_head_stride, c.head_stride);
    EXPECT_EQ(view.cmp_bias_offset, c.bias_offset);
    EXPECT_EQ(view.cmp_absolute, c.v_offset >= 0);
    EXPECT_EQ(view.cmp_slots == nullptr, c.bytes == 0);
  }
}

}  // namespace
}  // namespace nsa::engine
