#include <gtest/gtest.h>

#include <cstdint>
#include <vector>

#include "kernels/cuda/cuda.h"
#include "kernels/reference/reference.h"
#include "tests/cuda_host/orders.h"
#include "tests/kernels/selected_lists.h"

namespace nsa::kernels {
namespace {

std::vector<int64_t> Count(const SelectedLists& lists, int32_t chunk) {
  return lists.Count(CutSegments(lists.segments, chunk), [](const PageAgesParams& p) {
    cuda::Stream stream;
    cuda::PageAges(stream, p, cuda::ShapeOf(p.segments, p.num_segments));
  });
}

TEST(CudaPageAgesTest, EqualsTheReferenceInAnyChunks) {
  for (const int sel_block_size : {16, 64, 128}) {
    const SelectedLists lists(sel_block_size);
    const std::vector<int64_t> expected = lists.Count(lists.segments, reference::PageAges);
    EXPECT_EQ(cuda_host::InEveryOrder([&] { return Count(lists, 1000); }), expected);
    for (const int32_t chunk : {1, 7}) EXPECT_EQ(Count(lists, chunk), expected);
  }
}

TEST(CudaPageAgesTest, EveryBarrierIsMissed) {
  const SelectedLists lists(64);
  cuda_host::ExpectEveryBarrierIsMissed([&] { return Count(lists, 1000); });
}

}  // namespace
}  // namespace nsa::kernels
