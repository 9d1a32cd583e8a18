#ifndef NSA_TESTS_KERNELS_MERGE_BRANCHES_H_
#define NSA_TESTS_KERNELS_MERGE_BRANCHES_H_

#include <cstdint>
#include <limits>
#include <vector>

#include "kernels/ops/merge.h"
#include "tests/kernels/attention_cases.h"

namespace nsa::kernels {

inline constexpr float kInfinity = std::numeric_limits<float>::infinity();

/// Random outputs and log-sum-exps of branches, and logits of gates; rows stand apart.
struct Branches {
  int64_t num_rows;
  int num_heads;
  int head_dim;
  std::vector<std::vector<float>> out, lse;
  std::vector<float> gates;

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
  MergeParams Params(int num_branches, bool gated, int64_t first, int64_t count, float* y) const {
    MergeParams params;
    for (int c = 0; c < num_branches; ++c) {
      params.branches[c] = {const_cast<float*>(out[c].data()) + first * num_heads * head_dim,
                            const_cast<float*>(lse[c].data()) + first * num_heads};
    }
    params.num_branches = num_branches;
    params.gate_logits = gated ? gates.data() + first * GateStride() : nullptr;
    params.gate_stride = GateStride();
    params.num_rows = count;
    params.num_q_heads = num_heads;
    params.head_dim_v = head_dim;
    params.y = y + first * YStride();
    params.y_stride = YStride();
    return params;
  }
};

}  // namespace nsa::kernels

#endif  // NSA_TESTS_KERNELS_MERGE_BRANCHES_H_
