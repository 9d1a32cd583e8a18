#ifndef NSA_KERNELS_CUDA_MMA_PAGE_SCORES_H_
#define NSA_KERNELS_CUDA_MMA_PAGE_SCORES_H_

#include <cstdint>

#include "kernels/cuda/device.h"
#include "kernels/cuda/elements.h"
#include "kernels/cuda/mma_lines.h"
#include "kernels/cuda/mma_page_tile.h"
#include "kernels/cuda/mma_terms.h"
#include "kernels/cuda/mma_tile.h"
#include "kernels/cuda/reduce.h"
#include "kernels/cuda/rotate.h"

/// The scores of one page of the cache: queries turned by its distance against its keys.
namespace nsa::kernels::cuda {

/// Calls body(line) for those lines of the warp's block that are its own among the warps that share
/// it.
template <typename S, typename Body>
NSA_DEVICE void ForEachOwnLine(int num_lines, Body&& body) {
  NSA_UNROLL_BY(1)
  for (int i = S::Part(); i < kMmaLines; i += S::kSharers) {
    if (const int line = S::Block() * kMmaLines + i; line < num_lines) body(line);
  }
}

/// A warp a line: queries turned by their own offset. A lane comes back to those pairs alone that
/// it wrote.
template <typename S>
NSA_DEVICE void LayOutQueries(const SplitAttention& a, const RowTile& tile,
                              const PageTileShared<typename S::T>& shared) {
  const AttentionQuery& query = a.query;
  const SegmentRow& first = tile.first.row;
  const int dims = query.kv.head_dim_k, half = query.rope.rotary_dim / 2;
  ForEachOwnLine<S>(tile.num_lines, [&](int line) {
    const auto row = static_cast<int>(SplitIndex(line, tile.first.num_heads).quotient);
    const int64_t head = tile.first.first_head + line - row * tile.first.num_heads;
    const float* from = query.q + (first.row + row) * query.q_stride + head * dims;
    float* q = shared.q + line * dims;
    float largest = 0;
    for (int i = LaneIndex(); i < dims - half; i += kWarpSize) {
      Pair x = {0, from[i + half]};
      if (i < half) {
        x = RotateFine(query.rope, (first.position + row) % kPageSize, i, 1, {from[i], x.b});
        q[i] = x.a * query.scale;
        largest = MaxOrNan(Abs(q[i]), largest);
      }
      q[i + half] = x.b * query.scale;
      largest = MaxOrNan(Abs(q[i + half]), largest);
    }
    const QueryScale scale = QueryScaleOf(WarpMaxOrNan(largest));
    for (int i = LaneIndex(); i < dims - half; i += kWarpSize) {
      if (i < half) q[i] *= scale.scale;
      q[i + half] *= scale.scale;
    }
    if (LaneIndex() != 0) return;
    shared.unscale[line] = scale.inverse;
    shared.distances[line] = -1;
  });
}

/// A warp a line: queries turned by the distance of the page, where they are not yet. Of a line
/// that does not read it, nobody reads the products.
template <typename S>
NSA_DEVICE void LayOutTurned(const SplitAttention& a, const RowTile& tile,
                             const PageTileShared<typename S::T>& shared, const TilePage& page) {
  const int dims = a.query.kv.head_dim_k, half = a.query.rope.rotary_dim / 2;
  const int count = NumTerms(a.query, S::kQueryTerms), step = shared.term_size;
  ForEachOwnLine<S>(tile.num_lines, [&](int line) {
    const auto row = static_cast<int>(SplitIndex(line, tile.first.num_heads).quotient);
    const TileRange range = RangeOfRow(a, shared.reads, page, row);
    if (range.begin >= range.end) return;
    const int64_t distance = DistanceOf(a, tile, shared.reads[row], page.number, row);
    if (shared.distances[line] == distance) return;
    const float* q = shared.q + line * dims;
    typename S::T* terms = shared.terms + line * Pitch(dims);
    NSA_UNROLL_BY(1)
    for (int i = LaneIndex(); i < dims - half; i += kWarpSize) {
      float x = q[i + half];
      if (i < half) {
        const Pair turned = RotateCoarse(a.query.rope, distance, i, 1, {q[i], x});
        StoreTerms<S::kQueryTerms>(turned.a, count, step, terms + i);
        x = turned.b;
      }
      StoreTerms<S::kQueryTerms>(x, count, step, terms + i + half);
    }
    SyncWarp();
    if (LaneIndex() == 0) shared.distances[line] = static_cast<int32_t>(distance);
  });
}

/// Scores of the warp's lines, −∞ for tokens that a line does not read (`ranges`). A warp whose
/// lines read nothing (`reads_page`) makes none.
template <typename S>
NSA_DEVICE void ScorePage(const SplitAttention& a, const PageTileShared<typename S::T>& shared,
                          const TileLine (&lines)[2], const TileRange (&ranges)[2], bool reads_page,
                          TileScores& scores) {
  if (reads_page) {
    float own[S::kKeyBlocks][2][4] = {};
    MultiplyKeys<S>(a.query, shared.terms, shared.term_size, shared.keys, own);
    NSA_UNROLL
    for (int i = 0; i < 8 * S::kKeyBlocks; ++i) {
      const int b = i / 8, n = 2 * (S::Part() + b * S::kSharers) + i / 4 % 2, half = i % 4 / 2;
      const float score = own[b][i / 4 % 2][i % 4] * shared.unscale[lines[half].line];
      if constexpr (S::kSharers == 1) {
        scores[i / 4][i % 4] = score;
      } else {
        shared.scores[lines[half].line * kScorePitch + PlaceInTile(n, i)] = score;
      }
    }
  }
  if constexpr (S::kSharers > 1) SyncThreads();
  if (!reads_page) return;
  NSA_UNROLL
  for (int i = 0; i < kTileRows / 2; ++i) {
    const int place = PlaceInTile(i / 4, i), half = i % 4 / 2;
    float& score = scores[i / 4][i % 4];
    if (!ranges[half].Holds(place)) {
      score = -Infinity();
    } else if constexpr (S::kSharers > 1) {
      score = shared.scores[lines[half].line * kScorePitch + place];
    }
  }
}

}  // namespace nsa::kernels::cuda

#endif  // NSA_KERNELS_CUDA_MMA_PAGE_SCORES_H_
