#include "kernels/ops/sel_attn.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <numeric>
#include <random>
#include <vector>

#include "kernels/cuda/cuda.h"
#include "kernels/reference/reference.h"
#include "tests/cuda_host/orders.h"
#include "tests/kernels/attention_cases.h"
#include "tests/kernels/selections.h"

namespace nsa::kernels {
namespace {

struct Op {
  int sel_block_size;
  int64_t window_size = 0;
  int64_t max_page_distance = -1;
  bool reads_window = false;
};

SelAttnParams Params(const Selection& selection, const Op& op, const AttentionQuery& query,
                     AttentionResult& result) {
  return {query,
          op.sel_block_size,
          kMaxSelected,
          selection.selected.data(),
          selection.num_selected.data(),
          op.max_page_distance,
          op.window_size,
          op.reads_window,
          result.branch()};
}

/// Output and log-sum-exp in one vector. `is_split`: splits have CTAs of their own.
std::vector<float> Attend(const AttentionWorld& world, const Selection& selection, const Op& op,
                          const std::vector<AttentionSegment>& segments, bool is_split) {
  AttentionResult result = world.MakeResult();
  std::vector<float> workspace(is_split ? 4'000'000 : 0);
  cuda::Stream stream;
  cuda::SelAttn(stream, Params(selection, op, world.Query(segments), result),
                cuda::ShapeOf(segments.data(), static_cast<int>(segments.size())),
                {workspace.data(), static_cast<int64_t>(workspace.size())});
  result.out.insert(result.out.end(), result.lse.begin(), result.lse.end());
  return result.out;
}

/// Against the reference; with and without splits, and row by row, the same bits.
void ExpectExact(const AttentionWorld& world, const Selection& selection, const Op& op) {
  AttentionResult expected = world.MakeResult();
  reference::SelAttn(Params(selection, op, world.Query(world.segments()), expected));
  const std::vector<float> whole = Attend(world, selection, op, world.segments(), false);
  const auto middle = whole.begin() + static_cast<int64_t>(expected.out.size());
  ExpectClose({whole.begin(), middle}, expected.out, ToleranceOf(world.test_case()));
  ExpectClose({middle, whole.end()}, expected.lse, ToleranceOf(world.test_case()));
  EXPECT_TRUE(SameBits(Attend(world, selection, op, world.segments(), true), whole))
      << "splits show";
  std::vector<AttentionSegment> chunks = CutSegments(world.segments(), 1);
  std::shuffle(chunks.begin(), chunks.end(), std::mt19937(5));
  EXPECT_TRUE(SameBits(Attend(world, selection, op, chunks, true), whole)) << "chunks show";
}

/// The shared cases, with few rows: around the borders of pages, with and without candidates.
AttentionCase Small(AttentionCase c) {
  c.sequences = {{0, 1}, {63, 2}, {37, 0}, {1090, 2}};
  return c;
}

TEST_P(AttentionTest, CudaSelAttnIsExact) {
  const AttentionWorld world(Small(GetParam()));
  const int size = GetParam().sel_block_size;
  const Selection everywhere(world, size, 0);
  ExpectExact(world, everywhere, {size});
  // Blocks may reach into the window, of which nothing is read twice.
  ExpectExact(world, everywhere, {size, 128, 4, true});
  const Selection before_window(world, 64, 128);
  for (const Op& op : {Op{64, 128, 4}, {64, 128, -1}, {64, 128, 4, true}, {64, 128, 0, true}}) {
    SCOPED_TRACE(op.max_page_distance);
    ExpectExact(world, before_window, op);
  }
}

TEST_P(AttentionTest, CudaSelAttnHasNoRaces) {
  const AttentionWorld world(Small(GetParam()));
  const Selection selection(world, 64, 128);
  for (const bool is_split : {true, false}) {
    cuda_host::InEveryOrder(
        [&] { return Attend(world, selection, {64, 128, 4, true}, world.segments(), is_split); });
  }
}

INSTANTIATE_TEST_SUITE_P(, AttentionTest, testing::ValuesIn(AttentionCases()), CaseName);
INSTANTIATE_TEST_SUITE_P(Rounded, AttentionTest, testing::ValuesIn(RoundedCases()), CaseName);

// Blocks of three pages, as no shared case has.
TEST(CudaSelAttnTest, BlocksOfThreePages) {
  const AttentionWorld world({.name = "", .sequences = {{900, 3}, {2100, 2}}});
  ExpectExact(world, Selection(world, 192, 0), {192});
}

TEST(CudaSelAttnTest, EveryBarrierIsMissed) {
  struct Shape {
    DType dtype;
    int group, num_rows;
  };
  for (const Shape& shape : {Shape{DType::kF32, 4, 1},
                             {DType::kF32, 4, 4},
                             {DType::kBF16, 4, 1},
                             {DType::kBF16, 4, 4},
                             {DType::kBF16, 16, 6}}) {
    const AttentionWorld world({.name = "",
                                .dtype = shape.dtype,
                                .num_kv_heads = 1,
                                .group = shape.group,
                                .sequences = {{1500, shape.num_rows}}});
    Selection selection(world, 64, 128);
    for (int32_t i = 0; i < kMaxSelected; ++i) selection.selected[i] = i;
    selection.num_selected[0] = kMaxSelected;
    for (const bool is_split : {true, false}) {
      cuda_host::ExpectEveryBarrierIsMissed(
          [&] { return Attend(world, selection, {64, 128, 4, true}, world.segments(), is_split); });
    }
  }
}

// Rows of a tile walk the union of their pages, whatever the chunks: lists with nothing in common,
// with all in common, and empty ones.
TEST(CudaSelAttnTest, RowsOfATileAreAsThoughAlone) {
  for (const int group : {1, 3, 7, 16}) {
    for (const int sel_block_size : {64, 128}) {
      SCOPED_TRACE(testing::Message() << "group " << group << ", blocks of " << sel_block_size);
      const AttentionWorld world({.name = "",
                                  .dtype = DType::kF16,
                                  .num_kv_heads = 1,
                                  .group = group,
                                  .sequences = {{1525, 19}, {2, 2}, {190, 1}}});
      const Op op = {sel_block_size, 128, 4, true};
      Selection selection(world, sel_block_size, 128);
      const auto list = selection.selected.begin();  // the first row's, for some rows behind it
      for (int row = 1; row < 6; ++row) {
        std::copy_n(list, kMaxSelected, list + int64_t{row} * kMaxSelected);
        selection.num_selected[row] = selection.num_selected[0];
      }
      const std::vector<float> rows =
          Attend(world, selection, op, CutSegments(world.segments(), 1), false);
      for (const int num_rows : {5, 64}) {
        const auto chunks = CutSegments(world.segments(), num_rows);
        for (const bool is_split : {true, false}) {
          EXPECT_TRUE(SameBits(Attend(world, selection, op, chunks, is_split), rows)) << num_rows;
        }
      }
    }
  }
}

TEST(CudaSelAttnTest, NothingSelectedGivesZeroAndMinusInfinity) {
  const AttentionWorld world({.name = "", .sequences = {{900, 3}}});
  Selection selection(world, 64, 128);
  std::fill(selection.num_selected.begin(), selection.num_selected.end(), 0);
  for (const bool is_split : {true, false}) {
    const std::vector<float> left = Attend(world, selection, {64, 128}, world.segments(), is_split);
    const auto heads = static_cast<size_t>(3 * world.num_q_heads());
    for (size_t i = 0; i < left.size(); ++i) {
      const bool is_out = i < left.size() - heads;
      ASSERT_EQ(left[i], is_out ? 0 : -std::numeric_limits<float>::infinity());
    }
  }
}

// A block that lies wholly behind the query, or wholly in the window, is read by nobody.
TEST(CudaSelAttnTest, BlocksOutOfSightAreSkipped) {
  const AttentionWorld world({.name = "", .num_kv_heads = 1, .sequences = {{300, 1}}});
  for (const int64_t window_size : {int64_t{0}, int64_t{128}}) {
    Selection with(world, 64, window_size);
    with.selected[0] = 0;
    with.selected[1] = 1;
    with.selected[2] = window_size > 0 ? 3 : 500;  // the window begins at page 2
    with.num_selected[0] = 3;
    ExpectExact(world, with, {64, window_size});
  }
}

}  // namespace
}  // namespace nsa::kernels
