#ifndef NSA_KERNELS_CUDA_MMA_WALK_H_
#define NSA_KERNELS_CUDA_MMA_WALK_H_

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/device.h"
#include "kernels/cuda/mma_page_tile.h"
#include "kernels/cuda/mma_tile.h"
#include "kernels/cuda/paged.h"
#include "kernels/cuda/stretches.h"

/// The pages of one split of all rows of a tile, in rising order, each once.
namespace nsa::kernels::cuda {

inline constexpr int32_t kNoPage = INT32_MAX;

NSA_DEVICE const std::byte* SlotOfPage(const SplitAttention& a, const RowTile& tile, int64_t page) {
  const RowTile::First& first = tile.first;
  const int64_t place = PlaceOf(a.rows.places, a.rows.places_stride, first.row.page_table[page]);
  return a.rows.slots + place * a.rows.page_stride + first.kv_head * a.rows.head_stride;
}

/// Consecutive rows read consecutive pages: from where the first row begins to where the last ends.
template <typename T>
NSA_DEVICE void WalkTokens(const SplitAttention& a, const RowTile& tile,
                           const PageTileShared<T>& shared, int64_t split) {
  Extent tokens = {shared.reads[0].tokens.begin, shared.reads[tile.num_rows - 1].tokens.end};
  const Extent of_split = {split * kSplitRows, (split + 1) * kSplitRows};
  if (tokens.begin < of_split.begin) tokens.begin = of_split.begin;
  if (tokens.end > of_split.end) tokens.end = of_split.end;
  const int64_t first = tokens.begin / kPageSize, last = CeilDiv(tokens.end, kPageSize);
  const int64_t page = first + ThreadIndex();
  if (ThreadIndex() == 0) *shared.num_pages = first < last ? static_cast<int>(last - first) : 0;
  if (page >= last) return;
  const TileRange range = RangeInPage({tokens, {INT64_MAX, INT64_MAX}, {}}, page);
  shared.pages[ThreadIndex()] = {SlotOfPage(a, tile, page), static_cast<int32_t>(page), 0,
                                 static_cast<uint8_t>(range.begin),
                                 static_cast<uint8_t>(range.end)};
}

/// The union of the rows' pages. Each entry is one page of one row; the first entry of a page finds
/// the others, and the number of pages before.
template <typename T>
NSA_DEVICE void WalkUnion(const SplitAttention& a, const RowTile& tile,
                          const PageTileShared<T>& shared, int64_t split) {
  const int entry = ThreadIndex(), num_entries = tile.num_rows * kSplitPages;
  int32_t number = kNoPage;
  if (entry < num_entries) {
    const Task task = TaskOfRow(a, tile, entry / kSplitPages);
    const PageRows rows = PageRowsAt(a, task, split * kSplitPages + entry % kSplitPages);
    const bool is_read = rows.first < rows.end && rows.first + kPageSize > rows.begin;
    if (is_read) number = static_cast<int32_t>(rows.page);
    shared.numbers[entry] = number;
  }
  if (tile.num_rows > 1) SyncThreads();
  TilePage page = {nullptr, number, 0, kPageSize, 0};
  bool is_first = number != kNoPage;
  // With one row no other entry has the page, and nobody waited for the others.
  const bool is_alone = tile.num_rows == 1;
  const int end = is_alone ? entry + 1 : num_entries;
  NSA_UNROLL_BY(1)
  for (int i = is_alone ? entry : 0; is_first && i < end; ++i) {
    if (shared.numbers[i] != number) continue;
    is_first = i >= entry;
    const int row = i / kSplitPages;
    const TileRange range = RangeInPage(shared.reads[row], number);
    page.rows = static_cast<uint16_t>(page.rows | 1 << row);
    if (range.begin < page.begin) page.begin = static_cast<uint8_t>(range.begin);
    if (range.end > page.end) page.end = static_cast<uint8_t>(range.end);
  }
  if (entry < num_entries) shared.firsts[entry] = is_first ? number : kNoPage;
  SyncThreads();
  int before = 0, all = 0;
  NSA_UNROLL_BY(1)
  for (int i = 0; entry < num_entries && i < num_entries; ++i) {
    before += shared.firsts[i] < number ? 1 : 0;
    all += shared.firsts[i] != kNoPage ? 1 : 0;
  }
  if (entry == 0) *shared.num_pages = all;
  if (!is_first) return;
  page.slot = SlotOfPage(a, tile, number);
  shared.pages[before] = page;
}

/// Everybody may read the walk afterwards. Of the one before nobody may read anything any more.
template <typename T>
NSA_DEVICE void LayOutWalk(const SplitAttention& a, const RowTile& tile,
                           const PageTileShared<T>& shared, int64_t split) {
  if (a.reads == Reads::kSelection) {
    WalkUnion(a, tile, shared, split);
  } else {
    WalkTokens(a, tile, shared, split);
  }
  SyncThreads();
}

}  // namespace nsa::kernels::cuda

#endif  // NSA_KERNELS_CUDA_MMA_WALK_H_
