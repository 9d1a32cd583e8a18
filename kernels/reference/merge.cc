#include "kernels/ops/merge.h"

#include <cmath>

#include "kernels/reference/paged_attention.h"
#include "kernels/reference/reference.h"

namespace nsa::kernels::reference {
namespace {

/// The factor of each branch's output for one (row, head).
void BranchWeights(const MergeParams& params, int64_t row, int head, float* weights) {
  const int64_t index = row * params.num_q_heads + head;
  if (params.gate_logits != nullptr) {
    const float* logits =
        params.gate_logits + row * params.gate_stride + int64_t{head} * params.num_branches;
    for (int c = 0; c < params.num_branches; ++c) weights[c] = 1.0f / (1.0f + std::exp(-logits[c]));
    return;
  }
  float maximum = kNegativeInfinity;
  for (int c = 0; c < params.num_branches; ++c) {
    maximum = std::fmax(maximum, params.branches[c].lse[index]);
  }
  float sum = 0;
  for (int c = 0; c < params.num_branches; ++c) {
    const float lse = params.branches[c].lse[index];
    weights[c] = lse == kNegativeInfinity ? 0.0f : std::exp(lse - maximum);
    sum += weights[c];
  }
  for (int c = 0; c < params.num_branches && sum != 0; ++c) weights[c] /= sum;
}

}  // namespace

void Merge(const MergeParams& params) {
  for (int64_t row = 0; row < params.num_rows; ++row) {
    for (int head = 0; head < params.num_q_heads; ++head) {
      float weights[kMaxBranches];
      BranchWeights(params, row, head, weights);
      const int64_t offset = (row * params.num_q_heads + head) * params.head_dim_v;
      float* y = params.y + row * params.y_stride + int64_t{head} * params.head_dim_v;
      for (int dim = 0; dim < params.head_dim_v; ++dim) {
        float sum = 0;
        for (int c = 0; c < params.num_branches; ++c) {
          sum += weights[c] * params.branches[c].out[offset + dim];
        }
        y[dim] = sum;
      }
    }
  }
}

}  // namespace nsa::kernels::reference
