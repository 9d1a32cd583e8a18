#ifndef NSA_KERNELS_CUDA_MMA_WALK_H_
#define NSA_KERNELS_CUDA_MMA_WALK_H_

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/device.h"
#include "kernels/cuda/mma_tile.h"
#include "kernels/cuda/stretches.h"

/// The pages of one split of all rows of a tile, in rising order, each once.
namespace nsa::kernels::cuda {

inline constexpr int32_t kNoPage = INT32_MAX;

/// Where row `row` of the tile has the page, in its split; kNoPlace: nowhere.
NSA_DEVICE int PlaceOf(const SplitAttention& a, const TilePage& page, int row) {
  const int column = a.reads == Reads::kSelection ? row : 0;
  return static_cast<int>(page.places >> 4 * column & 15);
}

/// What row `row` reads of the page.
template <typename T>
NSA_DEVICE Stretch StretchOfRow(const SplitAttention& a, const TileShared<T>& shared,
                                const TilePage& page, int row) {
  const int place = PlaceOf(a, page, row);
  if (place == kNoPlace) return {nullptr, 0, 0, 0, 0};
  return shared.stretches[row * kSplitPages + place];
}

/// All rows' splits; the barrier behind it lets everybody read them.
template <typename T>
NSA_DEVICE void LayOutSplits(const SplitAttention& a, const RowTile& tile,
                             const TileShared<T>& shared) {
  const int thread = ThreadIndex();
  if (thread < tile.num_rows) shared.splits[thread] = SplitsOf(TaskOfRow(a, tile, thread));
  if (thread < tile.num_lines) {
    shared.row_of_line[thread] =
        static_cast<uint8_t>(SplitIndex(thread, tile.first.num_heads).quotient);
  }
  SyncThreads();
}

/// The least and the last of the rows' splits.
template <typename T>
NSA_DEVICE Extent SplitsOfTile(const RowTile& tile, const TileShared<T>& shared) {
  Extent all = shared.splits[0];
  for (int row = 1; row < tile.num_rows; ++row) {
    const Extent splits = shared.splits[row];
    if (splits.begin >= splits.end) continue;
    const bool is_first = all.begin >= all.end;
    if (is_first || splits.begin < all.begin) all.begin = splits.begin;
    if (is_first || splits.end > all.end) all.end = splits.end;
  }
  return all;
}

/// Takes in what one row reads of the page.
NSA_DEVICE void AddToPage(TilePage& page, const Stretch& stretch) {
  if (stretch.begin >= stretch.end) return;
  if (page.slot == nullptr) {
    page.slot = stretch.slot;
    page.begin = stretch.begin;
    page.end = stretch.end;
  }
  if (stretch.begin < page.begin) page.begin = stretch.begin;
  if (stretch.end > page.end) page.end = stretch.end;
}
template <typename T>
NSA_DEVICE void StorePage(const SplitAttention& a, const RowTile& tile, const TileShared<T>& shared,
                          TilePage page, int index) {
  for (int row = 0; row < tile.num_rows; ++row) {
    const Stretch stretch = StretchOfRow(a, shared, page, row);
    if (stretch.begin != page.begin || stretch.end != page.end) page.is_mixed = true;
  }
  shared.pages[index] = page;
}

/// Where all rows have the same pages at the same places, or there is but one row.
template <typename T>
NSA_DEVICE void WalkPlaces(const SplitAttention& a, const RowTile& tile,
                           const TileShared<T>& shared) {
  const int place = ThreadIndex();
  if (place == 0) *shared.num_pages = kSplitPages;
  if (place >= kSplitPages) return;
  TilePage page = {nullptr, static_cast<uint64_t>(place), 0, 0, false};
  for (int row = 0; row < tile.num_rows; ++row) {
    AddToPage(page, shared.stretches[row * kSplitPages + place]);
  }
  StorePage(a, tile, shared, page, place);
}

/// The union of the rows' pages. Each entry is one page of one row; the first entry of a page finds
/// the others, and the number of pages before.
template <typename T>
NSA_DEVICE void WalkUnion(const SplitAttention& a, const RowTile& tile,
                          const TileShared<T>& shared) {
  const int entry = ThreadIndex(), num_entries = tile.num_rows * kSplitPages;
  const int32_t* keys = shared.keys;
  int32_t* firsts = shared.keys + num_entries;
  TilePage page = {nullptr, ~uint64_t{0}, 0, 0, false};
  bool is_first = entry < num_entries && keys[entry] != kNoPage;
  for (int i = 0; is_first && i < num_entries; ++i) {
    if (keys[i] != keys[entry]) continue;
    is_first = i >= entry;
    const int shift = 4 * (i / kSplitPages);
    page.places &= ~(uint64_t{15} << shift) | static_cast<uint64_t>(i % kSplitPages) << shift;
    AddToPage(page, shared.stretches[i]);
  }
  if (entry < num_entries) firsts[entry] = is_first ? keys[entry] : kNoPage;
  SyncThreads();
  int before = 0, all = 0;
  for (int i = 0; entry < num_entries && i < num_entries; ++i) {
    before += firsts[i] < keys[entry] ? 1 : 0;
    all += firsts[i] != kNoPage ? 1 : 0;
  }
  if (entry == 0) *shared.num_pages = all;
  if (is_first) StorePage(a, tile, shared, page, before);
}

/// Everybody may read the walk afterwards, while those who are slow still read the stretches of the
/// split before. Scores of places where a row reads no page become −∞.
template <typename T>
NSA_DEVICE void LayOutWalk(const SplitAttention& a, const RowTile& tile,
                           const TileShared<T>& shared, int64_t split) {
  const bool is_union = a.reads == Reads::kSelection && tile.num_rows > 1;
  if (const int i = ThreadIndex(); i < tile.num_rows * kSplitPages) {
    const Task task = TaskOfRow(a, tile, i / kSplitPages);
    const PageRows rows = PageRowsAt(a, task, split * kSplitPages + i % kSplitPages);
    const Stretch stretch = StretchOf(a, task, rows);
    shared.stretches[i] = stretch;
    if (is_union) {
      shared.keys[i] = stretch.begin < stretch.end ? static_cast<int32_t>(rows.page) : kNoPage;
    }
  }
  if (tile.num_rows > 1) SyncThreads();  // else a thread reads what it wrote
  if (is_union) {
    WalkUnion(a, tile, shared);
  } else {
    WalkPlaces(a, tile, shared);
  }
  SyncThreads();
  for (int i = WarpIndex(); i < tile.num_lines * kSplitPages; i += NumThreads() / kWarpSize) {
    const int line = i / kSplitPages, place = i % kSplitPages;
    const Stretch& stretch = shared.stretches[shared.row_of_line[line] * kSplitPages + place];
    if (stretch.begin < stretch.end) continue;
    float* scores = shared.scores + line * kSplitRows + place * kPageSize;
    for (int token = LaneIndex(); token < kPageSize; token += kWarpSize) {
      scores[token] = -Infinity();
    }
  }
}

}  // namespace nsa::kernels::cuda

#endif  // NSA_KERNELS_CUDA_MMA_WALK_H_
