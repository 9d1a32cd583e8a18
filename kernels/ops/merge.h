#ifndef NSA_KERNELS_OPS_MERGE_H_
#define NSA_KERNELS_OPS_MERGE_H_

#include <cstdint>

#include "kernels/ops/attention.h"

namespace nsa::kernels {

inline constexpr int kMaxBranches = 3;

/// Joins the branches of one attention layer into y.
/// With gates (NSA Eq. 5): y = Σ_c sigmoid(gate_logits[c]) · out_c.
/// Without: one softmax over the union, y = Σ_c exp(lse_c − lse) · out_c with lse = log Σ_c
/// exp(lse_c); rows whose branches are all empty give 0.
struct MergeParams {
  BranchOutput branches[kMaxBranches];
  int num_branches = 0;
  const float* gate_logits = nullptr;  // [num_rows, num_q_heads, num_branches] or null
  int64_t gate_stride = 0;             // floats from a row to the next
  int64_t num_rows = 0;
  int num_q_heads = 0;
  int head_dim_v = 0;
  float* y = nullptr;  // [num_rows, num_q_heads · head_dim_v], rows y_stride floats apart
  int64_t y_stride = 0;
};

}  // namespace nsa::kernels

#endif  // NSA_KERNELS_OPS_MERGE_H_
