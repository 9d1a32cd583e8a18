#ifndef NSA_KERNELS_CUDA_MMA_COMPRESSED_SCORES_H_
#define NSA_KERNELS_CUDA_MMA_COMPRESSED_SCORES_H_

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/device.h"
#include "kernels/cuda/mma_blocks.h"
#include "kernels/cuda/mma_compressed_copies.h"
#include "kernels/cuda/mma_compressed_tile.h"
#include "kernels/cuda/mma_terms.h"
#include "kernels/cuda/reduce.h"
#include "kernels/cuda/rotate.h"
#include "kernels/cuda/split_scores.h"

/// The scores of one tile of compressed rows.
namespace nsa::kernels::cuda {

/// What a lane has of 16 lines and the tile's rows: sums of mma.m16n8k16.
using TileScores = float[kTileRows / 8][4];

/// Of element `i` of part `n`: its row in the tile.
NSA_DEVICE int PlaceInTile(int n, int i) { return 8 * n + LaneIndex() % 4 * 2 + i % 2; }

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
  for (int line = WarpIndex(); line < num_lines; line += kThreads / kWarpSize) {
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
  for (int i = ThreadIndex(); i < kTileRows * chunks * tile.num_rows; i += kThreads) {
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

/// Products of the warp's 16 lines and its blocks of 16 rows, every kStep-th.
template <typename T, int kQueryTerms, int kCount, int kStep>
NSA_DEVICE void MultiplyKeys(const AttentionQuery& query, const T* queries, int term_size,
                             const T* keys, int first_block, float (&sums)[kCount][2][4]) {
  const int dims = query.kv.head_dim_k;
  NSA_UNROLL
  for (int i = 0; i < 8 * kCount; ++i) sums[i / 8][i / 4 % 2][i % 4] = 0;
  for (int k = 0; k < dims; k += 16) {
    Terms<kQueryTerms> terms(NumTerms(query, kQueryTerms));
    LoadTerms(queries, term_size, Pitch(dims), k, terms);
    NSA_UNROLL
    for (int b = 0; b < kCount; ++b) {
      uint32_t block[4];
      LoadMatrix<true>(block, BlockRow(keys, Pitch(kTileRows), k, 16 * (first_block + b * kStep)));
      MultiplyBlock<T>(terms, block, sums[b]);
    }
  }
}

/// Scores of the warp's lines, −∞ for rows that a line does not see: of all rows of the tile where
/// `wants_all`, else of the warp's own blocks, which it reads and nobody else. Has a barrier where
/// warps need each other's, or where the tile has near rows.
template <typename T, int kQueryTerms, int kBlocks>
NSA_DEVICE void ScoreTile(const SplitAttention& a, const RowTile& tile,
                          const RowTileShared<T>& shared, const CompressedLine (&lines)[2],
                          int number, bool wants_all, TileScores& scores) {
  constexpr int kSharers = kLineWarps / kBlocks;  // warps of the same lines
  const int block = WarpIndex() / kSharers, part = WarpIndex() % kSharers;
  const int first = number * kTileRows, dims = a.query.kv.head_dim_k;
  float own[kBlocks][2][4];
  MultiplyKeys<T, kQueryTerms, kBlocks, kSharers>(
      a.query, shared.terms + block * kMmaLines * Pitch(dims), shared.term_size,
      shared.KeysOf(number), part, own);
  const auto is_near = [&](int half, int place) {
    return (first + place) >> a.rows.rows_log2 > lines[half].last_far_page;
  };
  const auto shared_score = [&](int half, int place) -> float& {
    return shared.scores[lines[half].line * kScorePitch + place];
  };
  NSA_UNROLL
  for (int b = 0; b < kBlocks; ++b) {
    NSA_UNROLL
    for (int i = 0; i < 8; ++i) {
      const int n = 2 * (part + b * kSharers) + i / 4, half = i % 4 / 2;
      const float score = own[b][i / 4][i % 4] * shared.unscale[lines[half].line];
      if constexpr (kSharers == 1) {
        scores[2 * b + i / 4][i % 4] = score;
      } else if (const int place = PlaceInTile(n, i); !is_near(half, place)) {
        shared_score(half, place) = score;
      }
    }
  }
  const bool is_near_tile = IsNearTile(a, tile, number);
  if (is_near_tile) ScoreNear(a, tile, shared, number);
  if ((kSharers > 1 && wants_all) || is_near_tile) SyncThreads();
  NSA_UNROLL
  for (int n = 0; n < kTileRows / 8; ++n) {
    const bool is_wanted = wants_all || n / 2 % kSharers == part;
    NSA_UNROLL
    for (int i = 0; i < 4; ++i) {
      const int place = PlaceInTile(n, i);
      if (!is_wanted || !lines[i / 2].Sees(first + place)) {
        scores[n][i] = -Infinity();
      } else if (kSharers > 1 || is_near(i / 2, place)) {
        scores[n][i] = shared_score(i / 2, place);
      }
    }
  }
}

}  // namespace nsa::kernels::cuda

#endif  // NSA_KERNELS_CUDA_MMA_COMPRESSED_SCORES_H_
