#ifndef NSA_KERNELS_CUDA_ROWS_H_
#define NSA_KERNELS_CUDA_ROWS_H_

#include <cstdint>

#include "kernels/cuda/device.h"
#include "kernels/ops/attention.h"

/// From the index of a CTA to the row that it works on.
namespace nsa::kernels::cuda {

struct SegmentRow {
  const int32_t* page_table;
  int64_t row;       // in the call's row arrays
  int64_t position;  // of the row's token
};

/// Row `index`, counted over the segments as they stand. Every thread walks the few segments by
/// itself: their lengths come from the cache, and nobody waits.
NSA_DEVICE SegmentRow FindRow(const AttentionSegment* segments, bool one_row_each, int64_t index) {
  int64_t s = one_row_each ? index : 0;
  int64_t i = one_row_each ? 0 : index;
  while (i >= segments[s].num_rows) i -= segments[s++].num_rows;
  return {segments[s].page_table, segments[s].row_begin + i, segments[s].position + i};
}

/// Consecutive rows of one segment.
struct SegmentRows {
  SegmentRow first;
  int64_t index;  // of the first, counted over the segments as they stand, from first_index
  int num_rows;
};

/// Tile `tile` of rows [first_index, first_index + num_rows), where each segment's are cut into
/// tiles of `rows_per_tile` rows, its last of fewer. Without rows behind the last tile.
NSA_DEVICE SegmentRows FindTile(const AttentionSegment* segments, int num_segments,
                                int rows_per_tile, int64_t first_index, int64_t num_rows,
                                int64_t tile) {
  SegmentRows found = {{nullptr, 0, 0}, 0, 0};
  for (int s = 0; s < num_segments; ++s) {
    const AttentionSegment& segment = segments[s];
    const int64_t skipped = first_index < segment.num_rows ? first_index : segment.num_rows;
    first_index -= skipped;
    const int64_t behind = segment.num_rows - skipped;
    const int64_t count = behind < num_rows ? behind : num_rows;
    const int64_t tiles = SplitIndex(count + rows_per_tile - 1, rows_per_tile).quotient;
    if (tile < tiles) {
      const int64_t begin = tile * rows_per_tile, left = count - begin;
      const int64_t row = skipped + begin;
      found.first = {segment.page_table, segment.row_begin + row, segment.position + row};
      found.index += begin;
      found.num_rows = left < rows_per_tile ? static_cast<int>(left) : rows_per_tile;
      return found;
    }
    tile -= tiles;
    found.index += count;
    num_rows -= count;
  }
  return found;
}

}  // namespace nsa::kernels::cuda

#endif  // NSA_KERNELS_CUDA_ROWS_H_
