#ifndef NSA_KERNELS_CUDA_MMA_RESULTS_H_
#define NSA_KERNELS_CUDA_MMA_RESULTS_H_

#include <cstdint>

#include "kernels/cuda/device.h"
#include "kernels/cuda/mma_lines.h"
#include "kernels/cuda/mma_tile.h"
#include "kernels/cuda/softmax.h"
#include "kernels/cuda/split_parts.h"

/// Where a split's sums go, from the registers of the warps that made them.
namespace nsa::kernels::cuda {

/// Calls body(half, dim, sum) for a lane's elements of `sums` whose lines are there.
template <typename S, typename Line, typename Body>
NSA_DEVICE void ForEachOut(const SplitAttention& a, const Line (&lines)[2], typename S::Sums& sums,
                           Body&& body) {
  NSA_UNROLL
  for (int j = 0; j < S::kPairs; ++j) {
    if (S::FirstDim(j) >= a.query.kv.head_dim_v) continue;
    NSA_UNROLL
    for (int i = 0; i < 8; ++i) {
      const int half = i % 4 / 2;
      const int dim = S::FirstDim(j) + i / 4 * 8 + LaneIndex() % 4 * 2 + i % 2;
      if (lines[half].is_there) body(half, dim, sums[j][i / 4][i % 4]);
    }
  }
}

/// Leaves a split's parts of those lines that have it in the workspace.
template <typename S, typename Line>
NSA_DEVICE void StoreParts(const SplitAttention& a, const RowTile& tile, const Line (&lines)[2],
                           int number, LaneSplit<S>& split) {
  float* parts[2] = {nullptr, nullptr};
  NSA_UNROLL
  for (int half = 0; half < 2; ++half) {
    const TileLine& line = lines[half];
    if (!line.HasSplit(number)) continue;
    parts[half] =
        PartOf(a, tile.first.index + line.row, HeadOf(tile, line), number - line.begin_split);
    if (LaneIndex() % 4 != 0 || S::Part() != 0) continue;
    parts[half][0] = split.maximum[half];
    parts[half][1] = split.sum[half];
  }
  ForEachOut<S>(a, lines, split.out, [&](int half, int dim, float sum) {
    if (parts[half] != nullptr) parts[half][2 + dim] = Unscaled(sum);
  });
}

/// Joins a split into those lines that have it. What is joined so far waits in the result, where
/// each lane comes back to its own: registers have no room for it beside the split's own sums.
template <typename S, typename Line>
NSA_DEVICE void JoinSplit(const SplitAttention& a, const RowTile& tile, const Line (&lines)[2],
                          int number, LaneSplit<S>& split, Softmax (&so_far)[2]) {
  JoinFactors factors[2];
  float* results[2] = {nullptr, nullptr};
  bool is_first[2], is_last[2];
  NSA_UNROLL
  for (int half = 0; half < 2; ++half) {
    const TileLine& line = lines[half];
    is_first[half] = number == line.begin_split;
    is_last[half] = number == line.end_split - 1;
    if (!line.HasSplit(number)) continue;
    factors[half] = Join(so_far[half], split.maximum[half], split.sum[half]);
    if constexpr (S::kPairs > 0) {
      results[half] = a.result.out + ResultOf(a, tile, line) * a.query.kv.head_dim_v;
    }
  }
  ForEachOut<S>(a, lines, split.out, [&](int half, int dim, float sum) {
    if (results[half] == nullptr) return;
    const float before = is_first[half] ? 0 : results[half][dim];
    const float joined = before * factors[half].before + Unscaled(sum) * factors[half].added;
    results[half][dim] = is_last[half] ? Quotient(joined, so_far[half]) : joined;
  });
}

/// What JoinSplit does not leave: log-sum-exps, and zeros of lines that see nothing.
template <typename S, typename Line>
NSA_DEVICE void StoreRest(const SplitAttention& a, const RowTile& tile, const Line (&lines)[2],
                          const Softmax (&so_far)[2]) {
  NSA_UNROLL
  for (int half = 0; half < 2; ++half) {
    const TileLine& line = lines[half];
    if (!line.is_there) continue;
    if (LaneIndex() % 4 == 0 && S::Part() == 0 && a.result.lse != nullptr) {
      a.result.lse[ResultOf(a, tile, line)] = LogSumExp(so_far[half]);
    }
    if (S::kPairs == 0 || line.begin_split < line.end_split) continue;
    float* out = a.result.out + ResultOf(a, tile, line) * a.query.kv.head_dim_v;
    for (int dim = S::Part() * 4 + LaneIndex() % 4; dim < a.query.kv.head_dim_v;
         dim += 4 * S::kSharers) {
      out[dim] = 0;
    }
  }
}

}  // namespace nsa::kernels::cuda

#endif  // NSA_KERNELS_CUDA_MMA_RESULTS_H_
