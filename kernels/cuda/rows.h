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

}  // namespace nsa::kernels::cuda

#endif  // NSA_KERNELS_CUDA_ROWS_H_
