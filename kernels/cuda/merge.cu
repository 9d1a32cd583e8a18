#include <cstdint>

#include "kernels/cuda/cuda.h"
#include "kernels/cuda/launch.h"

namespace nsa::kernels::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarpSize;

/// The factor of each branch's output for (row, head); 0 behind the last branch. As the reference
/// has it: a log-sum-exp of NaN is passed over by the maximum and makes every weight NaN.
template <bool kGated>
NSA_DEVICE void BranchWeights(const MergeParams& p, int64_t row, int64_t head,
                              float (&weights)[kMaxBranches]) {
  float values[kMaxBranches];
  float maximum = -Infinity();
  NSA_UNROLL
  for (int c = 0; c < kMaxBranches; ++c) {
    weights[c] = 0;
    values[c] = -Infinity();
    if (c >= p.num_branches) continue;
    values[c] = kGated ? p.gate_logits[row * p.gate_stride + head * p.num_branches + c]
                       : p.branches[c].lse[row * p.num_q_heads + head];
    maximum = Max(maximum, values[c]);
    if (kGated) weights[c] = 1.0f / (1.0f + Exp(-values[c]));
  }
  if constexpr (kGated) return;
  float sum = 0;
  NSA_UNROLL
  for (int c = 0; c < kMaxBranches; ++c) {
    if (values[c] != -Infinity()) weights[c] = Exp(values[c] - maximum);
    sum += weights[c];
  }
  NSA_UNROLL
  for (int c = 0; c < kMaxBranches; ++c) {
    if (sum != 0) weights[c] /= sum;
  }
}

/// A warp a (row, head): its lanes make the weights alike, and take dimensions in turn.
template <bool kGated>
NSA_KERNEL(kThreads)
MergeKernel(NSA_ARGS MergeParams p) {
  const int64_t item = CtaX() * kWarps + WarpIndex();
  if (item >= p.num_rows * p.num_q_heads) return;
  const Split by_head = SplitIndex(item, p.num_q_heads);
  const int64_t row = by_head.quotient, head = by_head.remainder;
  float weights[kMaxBranches];
  BranchWeights<kGated>(p, row, head, weights);
  float* y = p.y + row * p.y_stride + head * p.head_dim_v;
  for (int dim = LaneIndex(); dim < p.head_dim_v; dim += kWarpSize) {
    float sum = 0;
    NSA_UNROLL
    for (int c = 0; c < kMaxBranches; ++c) {
      if (c < p.num_branches) sum += weights[c] * p.branches[c].out[item * p.head_dim_v + dim];
    }
    y[dim] = sum;
  }
}

}  // namespace

void Merge(Stream& stream, const MergeParams& params) {
  NSA_CHECK(params.num_rows * params.num_q_heads <= INT32_MAX);
  const LaunchShape shape = {.name = "merge",
                             .grid_x = CeilDiv(params.num_rows * params.num_q_heads, kWarps),
                             .num_threads = kThreads};
  if (params.gate_logits == nullptr) return Launch(stream, shape, MergeKernel<false>, params);
  Launch(stream, shape, MergeKernel<true>, params);
}

}  // namespace nsa::kernels::cuda
