#ifndef NSA_KERNELS_CUDA_MMA_COMPRESSED_TILE_H_
#define NSA_KERNELS_CUDA_MMA_COMPRESSED_TILE_H_

#include <cstdint>

#include "kernels/cuda/device.h"
#include "kernels/cuda/mma_lines.h"
#include "kernels/cuda/mma_rows.h"
#include "kernels/cuda/mma_tile.h"
#include "kernels/cuda/stretches.h"

/// What a CTA of mma_compressed works on: rows of queries as in mma_tile.h, and tiles (mma_lines.h)
/// of 64 compressed rows that come by one after the other: row u of the cache is in tile u / 64.
namespace nsa::kernels::cuda {

/// Heads that score one near row together.
inline constexpr int kNearHeads = 4;

/// Some pages may be nearer than the limit: their distances differ.
constexpr bool HasNearRows(const SplitAttention& a) {
  return !a.rows.is_absolute && a.query.rope.rotary_dim > 0;
}

/// Sizes of arrays in shared memory, in elements.
struct RowTileSizes {
  int lines;
  int terms;    // of queries: [terms, lines, Pitch(head_dim_k)]
  int keys;     // [head_dim_k, Pitch(64)]
  int buffers;  // of keys: two where no values come between
  int values;   // [64, Pitch(head_dim_v)]
  int q;        // [rows, ⌈heads/4⌉, head_dim_k, 4]: LayOutQueries
  int scores;   // [lines, kScorePitch]
  int rows;
};
constexpr RowTileSizes SizesOfRowTile(const SplitAttention& a, int num_blocks, int rows,
                                      bool has_values) {
  const PagedKv& kv = a.query.kv;
  const int lines = kMmaLines * num_blocks, heads = HeadsOfTile(a, num_blocks);
  const int near_lines = rows * ((heads + kNearHeads - 1) / kNearHeads * kNearHeads);
  const bool is_shared = num_blocks < NumWarps(num_blocks) || a.masses.data != nullptr;
  return {lines,
          NumTerms(a.query, NumQueryTerms(a.rows.dtype)) * lines * Pitch(kv.head_dim_k),
          kv.head_dim_k * Pitch(kTileRows),
          has_values ? 1 : 2,
          has_values ? kTileRows * Pitch(kv.head_dim_v) : 0,
          HasNearRows(a) ? near_lines * kv.head_dim_k : 0,
          HasNearRows(a) || is_shared ? lines * kScorePitch : 0,
          rows};
}
constexpr int64_t SharedBytesOf(const RowTileSizes& s) {
  int64_t bytes = 0;
  const int64_t pieces[] = {int64_t{2} * s.terms,
                            int64_t{2} * s.buffers * s.keys,
                            int64_t{2} * s.values,
                            int64_t{4} * s.q,
                            int64_t{4} * s.scores,
                            int64_t{4} * s.lines,
                            int64_t{s.rows} * static_cast<int64_t>(sizeof(Extent))};
  for (const int64_t piece : pieces) bytes += CeilDiv(piece, 16) * 16;
  return bytes;
}

template <typename T>
struct RowTileShared {
  T* terms;
  T* keys;
  T* values;
  float* q;         // of near rows, turned by the query's own offset, and scaled
  float* scores;    // of a tile, where warps share lines, rows are near or groups are summed
  float* unscale;   // [lines]: what scores are multiplied by
  Extent* extents;  // [rows]
  int term_size;    // of one term
  int key_size;     // of one buffer
  int buffers;

  NSA_DEVICE T* KeysOf(int tile) const { return keys + tile % buffers * key_size; }
};

template <typename T>
NSA_DEVICE RowTileShared<T> TakeRowTileShared(const SplitAttention& a, int num_blocks,
                                              bool has_values) {
  const RowTileSizes s = SizesOfRowTile(a, num_blocks, a.rows_per_tile, has_values);
  SharedArena arena;
  return {arena.Take<T>(s.terms),
          arena.Take<T>(s.buffers * s.keys),
          arena.Take<T>(s.values),
          arena.Take<float>(s.q),
          arena.Take<float>(s.scores),
          arena.Take<float>(s.lines),
          arena.Take<Extent>(s.rows),
          s.lines * Pitch(a.query.kv.head_dim_k),
          s.keys,
          s.buffers};
}

/// Compressed rows that some row of queries reads: [begin, end). Those from `mixed` on are not read
/// by all.
struct TileExtent {
  int begin;
  int end;
  int mixed;
};

/// Everybody may read shared.extents afterwards.
template <typename T>
NSA_DEVICE TileExtent LayOutExtents(const SplitAttention& a, const RowTile& tile,
                                    const RowTileShared<T>& shared) {
  if (const int row = ThreadIndex(); row < tile.num_rows) {
    shared.extents[row] = TaskOfRow(a, tile, row).extent;
  }
  SyncThreads();
  TileExtent all = {0, 0, INT32_MAX};
  for (int row = 0; row < tile.num_rows; ++row) {
    const auto begin = static_cast<int>(shared.extents[row].begin);
    const auto end = static_cast<int>(shared.extents[row].end);
    const bool is_empty = begin >= end;
    if (!is_empty) all.begin = begin;  // the same for all
    if (end > all.end && !is_empty) all.end = end;
    const int limit = is_empty ? 0 : end;
    if (limit < all.mixed) all.mixed = limit;
  }
  return all;
}

/// One of a lane's two lines.
struct CompressedLine : TileLine {
  TileRange reads;  // compressed rows by their numbers
  int last_far_page;
};

/// Of the row of queries: the last page at the limit of distances, or beyond.
NSA_DEVICE int LastFarPage(const SplitAttention& a, const RowTile& tile, int row) {
  if (!HasNearRows(a)) return INT32_MAX;
  const int64_t page = (tile.first.row.position + row) / kPageSize - a.max_page_distance;
  return page < 0 ? -1 : static_cast<int>(page);
}

}  // namespace nsa::kernels::cuda

#endif  // NSA_KERNELS_CUDA_MMA_COMPRESSED_TILE_H_
