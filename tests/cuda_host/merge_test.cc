#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "kernels/cuda/cuda.h"
#include "kernels/reference/reference.h"
#include "tests/cuda_host/orders.h"
#include "tests/kernels/attention_cases.h"

namespace nsa::kernels {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

struct Branches {
  Branches(int64_t rows, int heads, int dim) : num_rows(rows), num_heads(heads), head_dim(dim) {
    for (uint32_t c = 0; c < kMaxBranches; ++c) {
      out.push_back(RandomFloats(rows * heads * dim, c));
      lse.push_back(RandomFloats(rows * heads, 10 + c));
      for (float& x : lse.back()) x *= 20;
    }
    gates = RandomFloats(rows * GateStride(), 20);
    for (float& x : gates) x *= 10;
  }
  int64_t GateStride() const { return num_heads * kMaxBranches + 3; }
  int64_t YStride() const { return int64_t{num_heads} * head_dim + 1; }

  /// Rows [first, first + count).
  MergeParams Params(int num_branches, bool gated, int64_t first, int64_t count) {
    MergeParams params;
    for (int c = 0; c < num_branches; ++c) {
      params.branches[c] = {out[c].data() + first * num_heads * head_dim,
                            lse[c].data() + first * num_heads};
    }
    params.num_branches = num_branches;
    params.gate_logits = gated ? gates.data() + first * GateStride() : nullptr;
    params.gate_stride = GateStride();
    params.num_rows = count;
    params.num_q_heads = num_heads;
    params.head_dim_v = head_dim;
    params.y_stride = YStride();
    return params;
  }
  std::vector<float> Merge(int num_branches, bool gated, int64_t chunk, bool reference = false) {
    std::vector<float> y(num_rows * YStride(), 7);
    cuda::Stream stream;
    for (int64_t first = 0; first < num_rows; first += chunk) {
      MergeParams p = Params(num_branches, gated, first, std::min(chunk, num_rows - first));
      p.y = y.data() + first * YStride();
      reference ? reference::Merge(p) : cuda::Merge(stream, p);
    }
    return y;
  }

  int64_t num_rows;
  int num_heads;
  int head_dim;
  std::vector<std::vector<float>> out, lse;
  std::vector<float> gates;
};

// The host's exp stands for the device's, so that bits are the reference's here.
TEST(CudaMergeTest, EqualsTheReferenceInChunksToo) {
  for (const int head_dim : {1, 7, 32, 37, 64, 128}) {
    Branches branches(9, 5, head_dim);
    branches.lse[0][3] = branches.lse[1][3] = -kInfinity;  // one branch left
    for (auto& lse : branches.lse) lse[4] = -kInfinity;    // none left
    for (const int num_branches : {1, 2, 3}) {
      for (const bool gated : {true, false}) {
        const std::vector<float> expected = branches.Merge(num_branches, gated, 9, true);
        EXPECT_TRUE(SameBits(
            cuda_host::InEveryOrder([&] { return branches.Merge(num_branches, gated, 9); }),
            expected));
        for (const int64_t chunk : {1, 4}) {
          EXPECT_TRUE(SameBits(branches.Merge(num_branches, gated, chunk), expected));
        }
      }
    }
  }
}

TEST(CudaMergeTest, NanOfOneRowStaysThere) {
  Branches branches(2, 1, 1);
  branches.lse[0][0] = std::numeric_limits<float>::quiet_NaN();
  const std::vector<float> y = branches.Merge(2, false, 2);
  EXPECT_TRUE(std::isnan(y[0]));
  EXPECT_TRUE(std::isfinite(y[branches.YStride()]));
}

}  // namespace
}  // namespace nsa::kernels
