#include "kernels/ops/sel_attn.h"

#include "kernels/ops/merge.h"
#include "kernels/ops/win_attn.h"
#include "tests/kernels/attention_cases.h"
#include "tests/kernels/selections.h"

namespace nsa::kernels {
namespace {

AttentionOp SelOp(const Selection& selection, int sel_block_size, int64_t window_size,
                  int64_t max_page_distance, bool reads_window = false) {
  return [=, &selection](Backend& backend, const AttentionQuery& query, AttentionResult& result) {
    SelAttnParams params;
    params.query = query;
    params.sel_block_size = sel_block_size;
    params.num_selected_blocks = kMaxSelected;
    params.selected = selection.selected.data();
    params.num_selected = selection.num_selected.data();
    params.max_page_distance = max_page_distance;
    params.window_size = window_size;
    params.reads_window = reads_window;
    params.result = result.branch();
    backend.SelAttn(params);
  };
}

TEST_P(AttentionTest, SelAttnIsRowInvariant) {
  const AttentionWorld world(GetParam());
  const int size = GetParam().sel_block_size;
  const Selection everywhere(world, size, 0);
  ExpectRowInvariant(world, SelOp(everywhere, size, 0, -1), world.MakeResult());
  const Selection before_window(world, 64, 128);
  ExpectRowInvariant(world, SelOp(before_window, 64, 128, 4), world.MakeResult());
  ExpectRowInvariant(world, SelOp(before_window, 64, 128, 4, true), world.MakeResult());
}

TEST_P(AttentionTest, SelAttnMatchesReference) {
  AttentionWorld world(GetParam());
  const int size = GetParam().sel_block_size;
  const Selection everywhere(world, size, 0);
  ExpectMatchesReference(world, SelOp(everywhere, size, 0, -1), world.MakeResult());
  const Selection before_window(world, 64, 128);
  ExpectMatchesReference(world, SelOp(before_window, 64, 128, 4), world.MakeResult());
  ExpectMatchesReference(world, SelOp(before_window, 64, 128, -1), world.MakeResult());
  ExpectMatchesReference(world, SelOp(before_window, 64, 128, 4, true), world.MakeResult());
}

// One pass over selection and window is what two branches and merge make of them.
TEST_P(AttentionTest, SelAttnWithTheWindowIsTheJoinedBranches) {
  const AttentionWorld world(GetParam());
  const Selection selection(world, 64, 128);
  const auto backend = MakeCpuBackend(2);
  const AttentionQuery query = world.Query(world.segments());
  AttentionResult selected = world.MakeResult(), window = world.MakeResult();
  AttentionResult joined = world.MakeResult(), together = world.MakeResult();
  SelOp(selection, 64, 128, 4)(*backend, query, selected);
  backend->WinAttn({query, 128, true, window.branch()});
  const int64_t width = int64_t{world.num_q_heads()} * world.test_case().head_dim_v;
  MergeParams merge;
  merge.num_branches = 2;
  merge.branches[0] = selected.branch();
  merge.branches[1] = window.branch();
  merge.num_rows = world.num_rows();
  merge.num_q_heads = world.num_q_heads();
  merge.head_dim_v = world.test_case().head_dim_v;
  merge.y = joined.out.data();
  merge.y_stride = width;
  backend->Merge(merge);
  SelOp(selection, 64, 128, 4, true)(*backend, query, together);
  ExpectClose(together.out, joined.out, kTolerance);
}

INSTANTIATE_TEST_SUITE_P(, AttentionTest, testing::ValuesIn(AttentionCases()), CaseName);

TEST(SelAttnTest, NothingSelectedGivesZeroAndMinusInfinity) {
  AttentionWorld world({.name = "", .sequences = {{900, 20}}});
  Selection selection(world, 64, 128);
  std::fill(selection.num_selected.begin(), selection.num_selected.end(), 0);
  for (const bool reference : {true, false}) {
    AttentionResult result = world.MakeResult();
    const auto backend = reference ? MakeReferenceBackend() : MakeCpuBackend(2);
    SelOp(selection, 64, 128, 4)(*backend, world.Query(world.segments()), result);
    for (const float x : result.out) ASSERT_EQ(x, 0);
    for (const float x : result.lse) ASSERT_EQ(x, -std::numeric_limits<float>::infinity());
  }
}

// What the limit means: a page beyond it gives what it would give if it stood there.
TEST(SelAttnTest, PagesBeyondTheLimitStandAtTheLimit) {
  const AttentionCase c = {.name = "", .num_kv_heads = 1, .sequences = {{900, 1}}};
  AttentionWorld world(c);  // the query stands in page 14
  const auto read = [&](std::vector<int32_t> blocks, int64_t limit, int64_t page_of_query) {
    Selection selection(world, 64, 128);
    std::copy(blocks.begin(), blocks.end(), selection.selected.begin());
    selection.num_selected[0] = static_cast<int32_t>(blocks.size());
    AttentionSegment segment = world.segments()[0];
    std::vector<int32_t> table(segment.page_table, segment.page_table + 15);
    std::swap(table[2], table[static_cast<size_t>(page_of_query)]);
    segment.page_table = table.data();
    AttentionResult result = world.MakeResult();
    SelOp(selection, 64, 128, limit)(*MakeCpuBackend(1), world.Query({segment}), result);
    return result;
  };
  const AttentionResult limited = read({2}, 5, 2);  // page 2, read as if 5 pages back
  ExpectSameBits(limited, read({9}, -1, 9));        // its content really 5 pages back
  EXPECT_FALSE(SameBits(limited.out, read({2}, -1, 2).out));
  ExpectSameBits(read({9}, 5, 2), read({9}, -1, 2));
}

// A block that lies wholly behind the query, or wholly in the window, is read by nobody.
TEST(SelAttnTest, BlocksOutOfSightAreSkipped) {
  AttentionWorld world({.name = "", .num_kv_heads = 1, .sequences = {{300, 1}}});
  const AttentionResult empty = world.MakeResult();
  for (const int64_t window_size : {int64_t{0}, int64_t{128}}) {
    Selection with(world, 64, window_size);
    with.selected[0] = 0;
    with.selected[1] = 1;
    with.selected[2] = window_size > 0 ? 3 : 500;  // the window begins at page 2
    with.num_selected[0] = 3;
    Selection without = with;
    without.num_selected[0] = 2;
    for (const bool reference : {true, false}) {
      const auto backend = reference ? MakeReferenceBackend() : MakeCpuBackend(1);
      AttentionResult a = empty, b = empty;
      SelOp(with, 64, window_size, -1)(*backend, world.Query(world.segments()), a);
      SelOp(without, 64, window_size, -1)(*backend, world.Query(world.segments()), b);
      ExpectSameBits(a, b);
    }
  }
}

}  // namespace
}  // namespace nsa::kernels
