#ifndef NSA_KERNELS_CUDA_STRETCHES_H_
#define NSA_KERNELS_CUDA_STRETCHES_H_

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/device.h"
#include "kernels/cuda/paged.h"
#include "kernels/cuda/rows.h"
#include "kernels/cuda/split_attention.h"

/// From a row of the call to the rows of the cache that it reads, in numbers and in pages.
namespace nsa::kernels::cuda {

inline constexpr int kSplitRows = 512;

NSA_DEVICE int64_t NumCandidates(const Candidates& c, int64_t position) {
  if (c.window_size == 0) return SplitIndex(position, c.sel_block_size).quotient + 1;
  return SplitIndex(PageAlignedWindowStart(position, c.window_size), c.sel_block_size).quotient;
}
NSA_DEVICE int NumSelected(const Candidates& c, int64_t row) {
  return c.row_num_selected_blocks == nullptr ? c.num_selected_blocks
                                              : c.row_num_selected_blocks[row];
}
/// Whether a row takes all its candidates, so that nothing is scored.
NSA_DEVICE bool TakesAll(const Candidates& c, const SegmentRow& row) {
  return NumCandidates(c, row.position) <= NumSelected(c, row.row);
}

/// Rows of the cache by their numbers: [begin, end).
struct Extent {
  int64_t begin;
  int64_t end;
};

/// Of a selection: how many stretches its blocks have, and where tokens end that they may hold.
struct Selection {
  const int32_t* blocks;
  int64_t num_stretches;
  int64_t window_start;
  int64_t limit;
};

/// What a CTA works on: one row and a few heads of one group.
struct Task {
  SegmentRow row;
  int64_t index;  // of the row in parts, and in a batch
  int64_t kv_head;
  int64_t first_head;
  int num_heads;
  Selection selection;
  Extent extent;
};

NSA_DEVICE Extent TokensOf(const SplitAttention& a, int64_t position) {
  if (a.window_size < 0) return {0, position + 1};
  const int64_t begin = a.page_aligned ? PageAlignedWindowStart(position, a.window_size)
                                       : position + 1 - a.window_size;
  return {begin > 0 ? begin : 0, position + 1};
}

/// Windows are counted by the stride that they end with, as the cache does.
NSA_DEVICE Extent CompressedRowsOf(const SplitAttention& a, const SegmentRow& row) {
  const Candidates& c = a.candidates;
  const int64_t begin = SplitIndex(a.length, a.stride).quotient - 1;
  if (c.sel_block_size > 0 && TakesAll(c, row)) return {begin, begin};
  if (c.num_clusters > 0) return {0, NumCandidates(c, row.position) * c.num_clusters};
  const int64_t end = SplitIndex(row.position + 1, a.stride).quotient;
  return {begin, end > begin ? end : begin};
}

/// A block is some pages, or a part of one; the window's pages come behind, in stretches as long.
NSA_DEVICE Selection SelectionOf(const SplitAttention& a, const SegmentRow& row, int64_t kv_head) {
  const int64_t list = row.row * a.query.kv.num_kv_heads + kv_head;
  const int64_t window_start = PageAlignedWindowStart(row.position, a.window_size);
  return {a.selected + list * a.num_selected_blocks,
          a.num_selected[list] * int64_t{a.sel_block_size >> a.stretch_log2}, window_start,
          a.window_size > 0 ? window_start : row.position + 1};
}

NSA_DEVICE Extent ExtentOf(const SplitAttention& a, const Task& task) {
  if (a.reads == Reads::kTokens) return TokensOf(a, task.row.position);
  if (a.reads == Reads::kCompressed) return CompressedRowsOf(a, task.row);
  const Selection& s = task.selection;
  const int64_t begin_of_window = s.num_stretches << a.stretch_log2;
  const int64_t window = a.reads_window ? task.row.position + 1 - s.window_start : 0;
  return {0, begin_of_window + window};
}

NSA_DEVICE Task MakeTask(const SplitAttention& a, const SegmentRow& row, int64_t index,
                         int64_t first_head, int num_heads) {
  Task task = {row,
               index,
               SplitIndex(first_head, a.query.num_q_heads / a.query.kv.num_kv_heads).quotient,
               first_head,
               num_heads,
               {},
               {}};
  if (a.reads == Reads::kSelection) task.selection = SelectionOf(a, task.row, task.kv_head);
  task.extent = ExtentOf(a, task);
  return task;
}
NSA_DEVICE Task MakeTask(const SplitAttention& a, int64_t index, int64_t first_head,
                         int num_heads) {
  return MakeTask(a, FindRow(a.query.segments, a.one_row_each, a.first_index + index), index,
                  first_head, num_heads);
}

/// Of a row that reads `extent`: [begin, end).
NSA_DEVICE Extent SplitsOf(const Extent& extent) {
  const int64_t begin = extent.begin / kSplitRows;
  if (extent.begin >= extent.end) return {begin, begin};
  return {begin, CeilDiv(extent.end, kSplitRows)};
}

/// Consecutive rows of one page, 2^stretch_log2 of them, of which some are read: those whose place
/// in the page is in [begin, end).
struct alignas(16) Stretch {
  const std::byte* slot;  // the KV head's part of the page
  int32_t page_distance;  // from the query's page, as the query takes it
  uint8_t first;          // its first row's place in the page
  uint8_t begin;
  uint8_t end;

  NSA_DEVICE bool Holds(int place) const { return place >= begin && place < end; }
};

/// The same before the page is looked up.
struct PageRows {
  int64_t page;
  int64_t first;  // its number in the sequence
  int64_t begin;
  int64_t end;
  int64_t page_distance;
};

NSA_DEVICE int64_t LimitDistance(int64_t distance, int64_t limit) {
  return limit >= 0 && distance > limit ? limit : distance;
}

NSA_DEVICE PageRows PageRowsAt(const SplitAttention& a, const Task& task, int64_t stretch) {
  const int64_t own_page = task.row.position / kPageSize;
  if (a.reads != Reads::kSelection) {
    const int64_t distance = own_page - (a.rows.is_absolute ? 0 : stretch);
    return {stretch, stretch << a.stretch_log2, task.extent.begin, task.extent.end,
            LimitDistance(distance, a.max_page_distance)};
  }
  const Selection& s = task.selection;
  int64_t first = s.window_start + ((stretch - s.num_stretches) << a.stretch_log2);
  if (stretch >= s.num_stretches) {
    const int64_t page = first / kPageSize;
    const int64_t end = a.reads_window ? task.row.position + 1 : 0;
    return {page, first, s.window_start, end, own_page - page};
  }
  const Split place = SplitIndex(stretch, a.sel_block_size >> a.stretch_log2);
  first =
      s.blocks[place.quotient] * int64_t{a.sel_block_size} + (place.remainder << a.stretch_log2);
  const int64_t page = first / kPageSize;
  return {page, first, 0, s.limit, LimitDistance(own_page - page, a.max_page_distance)};
}

NSA_DEVICE Stretch StretchOf(const SplitAttention& a, const Task& task, const PageRows& rows) {
  const int64_t last = rows.first + (int64_t{1} << a.stretch_log2);
  const int64_t begin = rows.begin > rows.first ? rows.begin : rows.first;
  const int64_t end = rows.end < last ? rows.end : last;
  if (begin >= end) return {nullptr, 0, 0, 0, 0};
  DeviceCheck(a.query.rope.rotary_dim == 0 ||
              (rows.page_distance >= 0 && rows.page_distance < a.query.rope.num_coarse));
  const int64_t of_page = rows.page << a.rows.rows_log2;
  const int64_t place =
      PlaceOf(a.rows.places, a.rows.places_stride, task.row.page_table[rows.page]);
  return {a.rows.slots + place * a.rows.page_stride + task.kv_head * a.rows.head_stride,
          static_cast<int32_t>(rows.page_distance), static_cast<uint8_t>(rows.first - of_page),
          static_cast<uint8_t>(begin - of_page), static_cast<uint8_t>(end - of_page)};
}
/// Stretch `stretch` of the row, counted from number 0.
NSA_DEVICE Stretch StretchAt(const SplitAttention& a, const Task& task, int64_t stretch) {
  return StretchOf(a, task, PageRowsAt(a, task, stretch));
}

}  // namespace nsa::kernels::cuda

#endif  // NSA_KERNELS_CUDA_STRETCHES_H_
