#include "kernels/ops/page_ages.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <numeric>
#include <vector>

#include "kernels/backend.h"
#include "tests/kernels/selected_lists.h"

namespace nsa::kernels {
namespace {

TEST(PageAgesTest, ClassesDoubleInWidth) {
  EXPECT_EQ(PageAge(0), 0);
  EXPECT_EQ(PageAge(1), 1);
  EXPECT_EQ(PageAge(2), PageAge(3));
  EXPECT_EQ(PageAge(8), PageAge(15));
  EXPECT_NE(PageAge(15), PageAge(16));
  EXPECT_EQ(PageAge((1 << 14) - 1), kNumPageAges - 2);
  EXPECT_EQ(PageAge(1 << 14), kNumPageAges - 1);
  EXPECT_EQ(PageAge(int64_t{1} << 40), kNumPageAges - 1);
}

TEST(PageAgesTest, BlocksCountByThePageThatTheyBeginIn) {
  EXPECT_EQ(BlockAge(640, 10, 64), 0);
  EXPECT_EQ(BlockAge(640, 3, 16), PageAge(10));  // page 0
  EXPECT_EQ(BlockAge(640, 4, 16), PageAge(9));
  EXPECT_EQ(BlockAge(640, 1, 128), PageAge(8));
}

TEST(PageAgesTest, CountsByHand) {
  const int32_t selected[] = {0, 7, 10, 9, -1, -1, 0, -1, -1};
  const int32_t num_selected[] = {3, 1, 0};  // the last list is empty, whatever stands there
  const AttentionSegment segment = {nullptr, 640, 0, 1};
  for (const auto& backend : {MakeReferenceBackend(), MakeCpuBackend(2)}) {
    std::vector<int64_t> ages(kNumPageAges, 5);
    backend->PageAges({.segments = &segment,
                       .num_segments = 1,
                       .num_kv_heads = 3,
                       .num_selected_blocks = 3,
                       .selected = selected,
                       .num_selected = num_selected,
                       .ages = ages.data()});
    std::vector<int64_t> expected(kNumPageAges, 5);
    for (const int64_t distance : {10, 3, 0, 1}) ++expected[PageAge(distance)];
    EXPECT_EQ(ages, expected);
  }
}

TEST(PageAgesTest, TheCpuCountsAsTheReferenceInAnyChunks) {
  for (const int sel_block_size : {16, 64, 128}) {
    const SelectedLists lists(sel_block_size);
    const std::vector<int64_t> expected = lists.Count(
        lists.segments, [](const PageAgesParams& p) { MakeReferenceBackend()->PageAges(p); });
    EXPECT_EQ(std::accumulate(expected.begin(), expected.end(), int64_t{0}), lists.NumSelected());
    for (const int32_t chunk : {1, 7, 1000}) {
      EXPECT_EQ(lists.Count(CutSegments(lists.segments, chunk),
                            [](const PageAgesParams& p) { MakeCpuBackend(2)->PageAges(p); }),
                expected);
    }
  }
}

}  // namespace
}  // namespace nsa::kernels
