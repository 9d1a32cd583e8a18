#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "kernels/cuda/cuda.h"
#include "kernels/reference/reference.h"
#include "tests/cuda_host/orders.h"
#include "tests/kernels/attention_cases.h"
#include "tests/kernels/merge_branches.h"

namespace nsa::kernels {
namespace {

std::vector<float> Merge(const Branches& branches, int num_branches, bool gated, int64_t chunk,
                         bool reference = false) {
  std::vector<float> y(branches.num_rows * branches.YStride(), 7);
  cuda::Stream stream;
  for (int64_t first = 0; first < branches.num_rows; first += chunk) {
    const int64_t count = std::min(chunk, branches.num_rows - first);
    const MergeParams p = branches.Params(num_branches, gated, first, count, y.data());
    reference ? reference::Merge(p) : cuda::Merge(stream, p);
  }
  return y;
}

TEST(CudaMergeTest, EqualsTheReferenceInChunksToo) {
  for (const int head_dim : {1, 7, 32, 37, 64, 128}) {
    Branches branches(9, 5, head_dim);
    branches.lse[0][3] = branches.lse[1][3] = -kInfinity;  // one branch left
    for (auto& lse : branches.lse) lse[4] = -kInfinity;    // none left
    for (const int num_branches : {1, 2, 3}) {
      for (const bool gated : {true, false}) {
        const std::vector<float> expected = Merge(branches, num_branches, gated, 9, true);
        const std::vector<float> whole =
            cuda_host::InEveryOrder([&] { return Merge(branches, num_branches, gated, 9); });
        cuda_host::ExpectSameButForMath(whole, expected);
        for (const int64_t chunk : {1, 4}) {
          EXPECT_TRUE(SameBits(Merge(branches, num_branches, gated, chunk), whole));
        }
      }
    }
  }
}

TEST(CudaMergeTest, NanOfOneRowStaysThere) {
  Branches branches(2, 1, 1);
  branches.lse[0][0] = std::numeric_limits<float>::quiet_NaN();
  const std::vector<float> y = Merge(branches, 2, false, 2);
  EXPECT_TRUE(std::isnan(y[0]));
  EXPECT_TRUE(std::isfinite(y[branches.YStride()]));
}

}  // namespace
}  // namespace nsa::kernels
