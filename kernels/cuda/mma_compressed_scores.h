#ifndef NSA_KERNELS_CUDA_MMA_COMPRESSED_SCORES_H_
#define NSA_KERNELS_CUDA_MMA_COMPRESSED_SCORES_H_

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/device.h"
#include "kernels/cuda/mma_compressed_copies.h"
#include "kernels/cuda/mma_compressed_tile.h"
#include "kernels/cuda/mma_lines.h"
#include "kernels/cuda/mma_rows.h"
#include "kernels/cuda/mma_terms.h"
#include "kernels/cuda/reduce.h"
#include "kernels/cuda/rotate.h"
#include "kernels/cuda/split_scores.h"

/// The scores of one tile of compressed rows.
namespace nsa::kernels::cuda {

/// Pair i of a query, turned by its row's own offset and scaled: .b alone behind rotary_dim.
NSA_DEVICE Pair FineQuery(const AttentionQuery& query, const float* q, int64_t position, int i) {
  const int half = query.rope.rotary_dim / 2;
  Pair x = {0, q[i + half]};
  if (i < half) x = RotateFine(query.rope, position % kPageSize, i, 1, {q[i], x.b});
  return {x.a * query.scale, x.b * query.scale};
}

/// A warp a line: queries turned by the distance of all tiles, or of all pages at the limit, as
/// terms; those for near rows in float32. Lines behind the last are zero.
template <int kQueryTerms, typename T>
NSA_DEVICE void LayOutQueries(const SplitAttention& a, const RowTile& tile, int num_lines,
                              const RowTileShared<T>& shared) {
  const AttentionQuery& query = a.query;
  const int dims = query.kv.head_dim_k, half = query.rope.rotary_dim / 2;
  const int num_heads = tile.first.num_heads, count = NumTerms(query, kQueryTerms);
  const int chunks = (num_heads + kNearHeads - 1) / kNearHeads;
  for (int line = WarpIndex(); line < num_lines; line += NumThreads() / kWarpSize) {
    const bool is_there = line < tile.num_lines;
    const Split place = SplitIndex(is_there ? line : 0, num_heads);
    const auto row = static_cast<int>(place.quotient), head = static_cast<int>(place.remainder);
    const int64_t position = tile.first.row.position + row;
    const int64_t distance =
        LimitDistance(position / kPageSize, a.rows.is_absolute ? -1 : a.max_page_distance);
    const float* from = query.q + (tile.first.row.row + row) * query.q_stride +
                        (tile.first.first_head + head) * dims;
    const auto turned = [&](int i) {
      Pair x = FineQuery(query, from, position, i);
      if (i < half) x = RotateCoarse(query.rope, distance, i, 1, x);
      return x;
    };
    float largest = 0;
    for (int i = LaneIndex(); i < dims - half; i += kWarpSize) {
      const Pair x = turned(i);
      largest = MaxOrNan(Abs(x.b), MaxOrNan(Abs(x.a), largest));
    }
    const QueryScale scale = QueryScaleOf(WarpMaxOrNan(largest));
    T* terms = shared.terms + line * Pitch(dims);
    for (int i = LaneIndex(); i < dims - half; i += kWarpSize) {
      Pair x = turned(i);
      if (!is_there) x = {0, 0};
      if (i < half) StoreTerms<kQueryTerms>(x.a * scale.scale, count, shared.term_size, terms + i);
      StoreTerms<kQueryTerms>(x.b * scale.scale, count, shared.term_size, terms + i + half);
    }
    if (LaneIndex() == 0) shared.unscale[line] = scale.inverse;
    if (!HasNearRows(a) || !is_there) continue;
    float* near = shared.q + (row * chunks + head / kNearHeads) * dims * kNearHeads;
    for (int i = LaneIndex(); i < dims - half; i += kWarpSize) {
      const Pair x = FineQuery(query, from, position, i);
      if (i < half) near[i * kNearHeads + head % kNearHeads] = x.a;
      near[(i + half) * kNearHeads + head % kNearHeads] = x.b;
    }
  }
}

/// Whether a row of queries may be near a row of the tile. The first is nearest.
NSA_DEVICE bool IsNearTile(const SplitAttention& a, const RowTile& tile, int number) {
  const int last_page = (number * kTileRows + kTileRows - 1) >> a.rows.rows_log2;
  return last_page > LastFarPage(a, tile, 0);
}

/// Scores of near rows, as the plain twin makes them: a thread a row of the tile and four heads of
/// a row of queries.
template <typename T>
NSA_DEVICE void ScoreNear(const SplitAttention& a, const RowTile& tile,
                          const RowTileShared<T>& shared, int number) {
  const int dims = a.query.kv.head_dim_k, num_heads = tile.first.num_heads;
  const int chunks = (num_heads + kNearHeads - 1) / kNearHeads;
  for (int i = ThreadIndex(); i < kTileRows * chunks * tile.num_rows; i += NumThreads()) {
    const Split by_row = SplitIndex(i / kTileRows, chunks);
    const auto row = static_cast<int>(by_row.quotient);
    const auto chunk = static_cast<int>(by_row.remainder);
    const int place = i % kTileRows, number_of_row = number * kTileRows + place;
    const int page = number_of_row >> a.rows.rows_log2;
    const Extent extent = shared.extents[row];
    if (number_of_row < extent.begin || number_of_row >= extent.end) continue;
    if (page <= LastFarPage(a, tile, row)) continue;
    const float* q = shared.q + (row * chunks + chunk) * dims * kNearHeads;
    const int in_page = number_of_row & ((1 << a.rows.rows_log2) - 1);
    const Key<T> key(a.rows, RowSlot(a, tile, page), in_page);
    const int64_t distance = (tile.first.row.position + row) / kPageSize - page;
    float sums[kNearHeads] = {};
    Dot<T>(a.query, q, key, distance, sums);
    NSA_UNROLL
    for (int h = 0; h < kNearHeads; ++h) {
      const int head = chunk * kNearHeads + h;
      if (head < num_heads) shared.scores[(row * num_heads + head) * kScorePitch + place] = sums[h];
    }
  }
}

/// Scores of the warp's lines, −∞ for rows that a line does not see: of all rows of the tile where
/// `wants_all`, else of the warp's own blocks, which it reads and nobody else. Has a barrier where
/// warps need each other's, or where the tile has near rows.
template <typename S>
NSA_DEVICE void ScoreTile(const SplitAttention& a, const RowTile& tile,
                          const RowTileShared<typename S::T>& shared,
                          const CompressedLine (&lines)[2], int number, bool wants_all,
                          TileScores& scores) {
  const int first = number * kTileRows;
  float own[S::kKeyBlocks][2][4] = {};
  if (HasLines<S>(tile)) {
    MultiplyKeys<S>(a.query, shared.terms, shared.term_size, shared.KeysOf(number), own);
  }
  const auto is_near = [&](int half, int place) {
    return (first + place) >> a.rows.rows_log2 > lines[half].last_far_page;
  };
  const auto shared_score = [&](int half, int place) -> float& {
    return shared.scores[lines[half].line * kScorePitch + place];
  };
  NSA_UNROLL
  for (int b = 0; b < S::kKeyBlocks; ++b) {
    NSA_UNROLL
    for (int i = 0; i < 8; ++i) {
      const int n = 2 * (S::Part() + b * S::kSharers) + i / 4, half = i % 4 / 2;
      const float score = own[b][i / 4][i % 4] * shared.unscale[lines[half].line];
      if constexpr (S::kSharers == 1) {
        scores[2 * b + i / 4][i % 4] = score;
      } else if (const int place = PlaceInTile(n, i); !is_near(half, place)) {
        shared_score(half, place) = score;
      }
    }
  }
  const bool is_near_tile = IsNearTile(a, tile, number);
  if (is_near_tile) ScoreNear(a, tile, shared, number);
  if ((S::kSharers > 1 && wants_all) || is_near_tile) SyncThreads();
  NSA_UNROLL
  for (int n = 0; n < kTileRows / 8; ++n) {
    const bool is_wanted = wants_all || n / 2 % S::kSharers == S::Part();
    NSA_UNROLL
    for (int i = 0; i < 4; ++i) {
      const int place = PlaceInTile(n, i);
      if (!is_wanted || !lines[i / 2].reads.Holds(first + place)) {
        scores[n][i] = -Infinity();
      } else if (S::kSharers > 1 || is_near(i / 2, place)) {
        scores[n][i] = shared_score(i / 2, place);
      }
    }
  }
}

}  // namespace nsa::kernels::cuda

#endif  // NSA_KERNELS_CUDA_MMA_COMPRESSED_SCORES_H_
