#ifndef NSA_KERNELS_CUDA_SPLIT_PARTS_H_
#define NSA_KERNELS_CUDA_SPLIT_PARTS_H_

#include <cstdint>

#include "kernels/cuda/device.h"
#include "kernels/cuda/reduce.h"
#include "kernels/cuda/split_attention.h"
#include "kernels/cuda/stretches.h"

/// What the kernels of split_attention share: how a CTA finds its work, the softmax of one split,
/// and where results go.
namespace nsa::kernels::cuda {

inline constexpr int kThreads = 128;

constexpr int Passes(int group, int heads) { return (group + heads - 1) / heads; }

/// Row, KV head and `heads` heads of its group, or the last of them, by the CTA's x.
NSA_DEVICE Task TaskOfCta(const SplitAttention& a, int heads) {
  const int group = a.query.num_q_heads / a.query.kv.num_kv_heads;
  const Split by_pass = SplitIndex(CtaX(), Passes(group, heads));
  const Split by_head = SplitIndex(by_pass.quotient, a.query.kv.num_kv_heads);
  const int first = static_cast<int>(by_pass.remainder) * heads, left = group - first;
  return MakeTask(a, by_head.quotient, by_head.remainder * group + first,
                  left < heads ? left : heads);
}

/// A warp of `num_threads` a head: scores [num_heads, kSplitRows] to weights exp(score − maximum),
/// with their maximum and sum. Lane i of the warp of head h writes weights i, i + 32, ….
NSA_DEVICE void Weigh(float* all_scores, float* maxima, float* sums, int num_heads,
                      int num_threads = kThreads) {
  for (int h = WarpIndex(); h < num_heads; h += num_threads / kWarpSize) {
    float* scores = all_scores + h * kSplitRows;
    float maximum = -Infinity();
    for (int i = LaneIndex(); i < kSplitRows; i += kWarpSize) {
      maximum = MaxOrNan(scores[i], maximum);
    }
    maximum = WarpMaxOrNan(maximum);
    float sum = 0;
    for (int i = LaneIndex(); i < kSplitRows; i += kWarpSize) {
      scores[i] = maximum == -Infinity() ? 0.0f : Exp(scores[i] - maximum);
      sum += scores[i];
    }
    sum = WarpSum(sum);
    if (LaneIndex() == 0) {
      maxima[h] = maximum;
      sums[h] = sum;
    }
  }
}

/// Values that a row's softmax weighs.
NSA_DEVICE int OutDims(const SplitAttention& a) {
  return a.result.out == nullptr ? 0 : a.query.kv.head_dim_v;
}

NSA_DEVICE float* PartOf(const SplitAttention& a, int64_t index, int64_t head, int64_t split) {
  const int64_t part = (index * a.query.num_q_heads + head) * a.num_splits + split;
  return a.parts + part * (OutDims(a) + 2);
}

/// Where the results of (row, head) stand.
NSA_DEVICE int64_t ResultIndex(const SplitAttention& a, const Task& task, int64_t head) {
  return (a.is_batch ? task.index : task.row.row) * a.query.num_q_heads + head;
}

}  // namespace nsa::kernels::cuda

#endif  // NSA_KERNELS_CUDA_SPLIT_PARTS_H_
