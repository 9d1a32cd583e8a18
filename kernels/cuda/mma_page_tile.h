#ifndef NSA_KERNELS_CUDA_MMA_PAGE_TILE_H_
#define NSA_KERNELS_CUDA_MMA_PAGE_TILE_H_

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/device.h"
#include "kernels/cuda/mma_lines.h"
#include "kernels/cuda/mma_rows.h"
#include "kernels/cuda/mma_tile.h"
#include "kernels/cuda/stretches.h"

/// A CTA's shared memory in mma_attention: rows of queries as in mma_tile.h, and pages of the cache
/// that come by one after the other, each a tile of mma_lines.h.
namespace nsa::kernels::cuda {

static_assert(kPageSize == kTileRows);
inline constexpr int kMaxDims = 256;
/// Of values beyond these dimensions a warp's registers hold the sums of a quarter.
inline constexpr int kFewDimsV = 128;
inline constexpr int kSplitPages = kSplitRows / kPageSize;
/// A union of their pages has a thread for each page of a row, and a bit for each row.
inline constexpr int kMaxSelectionRows = 16;
static_assert(kMaxSelectionRows * kSplitPages <= kThreads);

/// A page that some row of the tile reads in the split at hand.
struct alignas(16) TilePage {
  const std::byte* slot;  // the KV head's part of the page
  int32_t number;         // in the sequence
  uint16_t rows;          // of a selection: bit r, whether row r reads it
  uint8_t begin;          // tokens that some row reads
  uint8_t end;
};

/// What one row reads.
struct RowReads {
  Extent tokens;  // all, or what its selected blocks may hold
  Extent window;  // behind a selection; beyond all tokens where there is none
  Extent splits;
};

/// Sizes of arrays in shared memory, in elements.
struct PageTileSizes {
  int lines;
  int rows;
  int terms;     // of turned queries: [terms, lines, Pitch(head_dim_k)]
  int keys;      // [head_dim_k, Pitch(64)]
  int values;    // [64, Pitch(head_dim_v)]
  int raw_keys;  // of a page before they become 16-bit floats, in bytes
  int raw_values;
  int q;       // [lines, head_dim_k]
  int scores;  // [lines, kScorePitch], where warps share lines
  int pages;
  int numbers;  // of the union of a selection's pages
};
constexpr PageTileSizes SizesOfPageTile(const SplitAttention& a, int num_blocks, int rows) {
  const PagedKv& kv = a.query.kv;
  const int lines = kMmaLines * num_blocks;
  const bool is_raw = SizeOf(kv.dtype) == 1, is_selection = a.reads == Reads::kSelection;
  const int most_terms = NumQueryTerms(is_raw ? DType::kF16 : kv.dtype);
  return {lines,
          rows,
          NumTerms(a.query, most_terms) * lines * Pitch(kv.head_dim_k),
          kv.head_dim_k * Pitch(kPageSize),
          kPageSize * Pitch(kv.head_dim_v),
          is_raw ? kPageSize * kv.head_dim_k : 0,
          is_raw ? kPageSize * kv.head_dim_v : 0,
          rows * HeadsOfTile(a, num_blocks) * kv.head_dim_k,
          NumWarps(num_blocks) > num_blocks ? lines * kScorePitch : 0,
          is_selection ? rows * kSplitPages : kSplitPages,
          is_selection ? rows * kSplitPages : 0};
}
constexpr int64_t SharedBytesOf(const PageTileSizes& s) {
  int64_t bytes = 0;
  const int64_t pieces[] = {int64_t{4} * s.scores,
                            int64_t{4} * s.lines,
                            int64_t{4} * s.lines,
                            4,
                            s.rows * static_cast<int64_t>(sizeof(RowReads)),
                            s.pages * static_cast<int64_t>(sizeof(TilePage)),
                            int64_t{2} * s.terms,
                            int64_t{2} * s.keys,
                            int64_t{2} * s.values,
                            s.raw_keys,
                            s.raw_values,
                            int64_t{4} * s.q,
                            int64_t{4} * s.numbers,
                            int64_t{4} * s.numbers};
  for (const int64_t piece : pieces) bytes += CeilDiv(piece, 16) * 16;
  return bytes;
}

template <typename T>
struct PageTileShared {
  // First those at places that the kernel knows: the others' take registers.
  float* scores;       // of a page
  float* unscale;      // [lines]: what scores are multiplied by
  int32_t* distances;  // [lines]: by which the terms are turned
  int32_t* num_pages;
  RowReads* reads;  // [rows]
  TilePage* pages;  // of the split, rising
  T* terms;
  T* keys;
  T* values;
  std::byte* raw_keys;
  std::byte* raw_values;
  float* q;          // turned by the query's own offset, and scaled
  int32_t* numbers;  // [rows, kSplitPages]: pages of each row
  int32_t* firsts;   // [rows, kSplitPages]: the same where no row before has the page
  int term_size;     // of one term
};

template <typename T>
NSA_DEVICE PageTileShared<T> TakePageTileShared(const SplitAttention& a, int num_blocks) {
  const PageTileSizes s = SizesOfPageTile(a, num_blocks, a.rows_per_tile);
  SharedArena arena;
  return {arena.Take<float>(s.scores),
          arena.Take<float>(s.lines),
          arena.Take<int32_t>(s.lines),
          arena.Take<int32_t>(1),
          arena.Take<RowReads>(s.rows),
          arena.Take<TilePage>(s.pages),
          arena.Take<T>(s.terms),
          arena.Take<T>(s.keys),
          arena.Take<T>(s.values),
          arena.Take<std::byte>(s.raw_keys),
          arena.Take<std::byte>(s.raw_values),
          arena.Take<float>(s.q),
          arena.Take<int32_t>(s.numbers),
          arena.Take<int32_t>(s.numbers),
          s.lines * Pitch(a.query.kv.head_dim_k)};
}

NSA_DEVICE RowReads ReadsOf(const SplitAttention& a, const Task& task) {
  constexpr Extent kNone = {INT64_MAX, INT64_MAX};
  if (a.reads != Reads::kSelection) return {task.extent, kNone, SplitsOf(task.extent)};
  const Selection& s = task.selection;
  const Extent window = {s.window_start, task.row.position + 1};
  return {{0, s.limit}, a.reads_window ? window : kNone, SplitsOf(task.extent)};
}

/// Everybody may read shared.reads afterwards.
template <typename T>
NSA_DEVICE void LayOutReads(const SplitAttention& a, const RowTile& tile,
                            const PageTileShared<T>& shared) {
  if (const int row = ThreadIndex(); row < tile.num_rows) {
    shared.reads[row] = ReadsOf(a, TaskOfRow(a, tile, row));
  }
  SyncThreads();
}

/// The least and the last of the rows' splits.
template <typename T>
NSA_DEVICE Extent SplitsOfTile(const RowTile& tile, const PageTileShared<T>& shared) {
  Extent all = shared.reads[0].splits;
  for (int row = 1; row < tile.num_rows; ++row) {
    const Extent splits = shared.reads[row].splits;
    if (splits.begin >= splits.end) continue;
    const bool is_first = all.begin >= all.end;
    if (is_first || splits.begin < all.begin) all.begin = splits.begin;
    if (is_first || splits.end > all.end) all.end = splits.end;
  }
  return all;
}

NSA_DEVICE bool IsOfWindow(const RowReads& reads, int64_t page) {
  return page * kPageSize >= reads.window.begin;
}
/// Tokens of the page that the row reads, if it reads the page.
NSA_DEVICE TileRange RangeInPage(const RowReads& reads, int64_t page) {
  const Extent& extent = IsOfWindow(reads, page) ? reads.window : reads.tokens;
  const int64_t first = page * kPageSize, begin = extent.begin - first, end = extent.end - first;
  return {begin > 0 ? static_cast<int>(begin < kPageSize ? begin : kPageSize) : 0,
          end > 0 ? static_cast<int>(end < kPageSize ? end : kPageSize) : 0};
}
NSA_DEVICE TileRange RangeOfRow(const SplitAttention& a, const RowReads* reads,
                                const TilePage& page, int row) {
  if (a.reads == Reads::kSelection && (page.rows >> row & 1) == 0) return {0, 0};
  return RangeInPage(reads[row], page.number);
}
/// Pages that the row's query is turned by.
NSA_DEVICE int64_t DistanceOf(const SplitAttention& a, const RowTile& tile, const RowReads& reads,
                              int64_t page, int row) {
  if (a.query.rope.rotary_dim == 0) return 0;
  const int64_t distance = (tile.first.row.position + row) / kPageSize - page;
  return IsOfWindow(reads, page) ? distance : LimitDistance(distance, a.max_page_distance);
}

}  // namespace nsa::kernels::cuda

#endif  // NSA_KERNELS_CUDA_MMA_PAGE_TILE_H_
