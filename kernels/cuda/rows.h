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
  int64_t index;  // of the first, counted over the segments as they stand
  int num_rows;
};

/// Tile `tile`, where each segment is cut into tiles of `rows_per_tile` rows, its last of fewer.
/// Without rows behind the last tile.
NSA_DEVICE SegmentRows FindTile(const AttentionSegment* segments, int num_segments,
                                int rows_per_tile, int64_t tile) {
  SegmentRows found = {{nullptr, 0, 0}, 0, 0};
  for (int s = 0; s < num_segments; ++s) {
    const AttentionSegment& segment = segments[s];
    const int64_t tiles = SplitIndex(segment.num_rows + rows_per_tile - 1, rows_per_tile).quotient;
    if (tile < tiles) {
      const int64_t begin = tile * rows_per_tile, left = segment.num_rows - begin;
      found.first = {segment.page_table, segment.row_begin + begin, segment.position + begin};
      found.index += begin;
      found.num_rows = left < rows_per_tile ? static_cast<int>(left) : rows_per_tile;
      return found;
    }
    tile -= tiles;
    found.index += segment.num_rows;
  }
  return found;
}

}  // namespace nsa::kernels::cuda

#endif  // NSA_KERNELS_CUDA_ROWS_H_
