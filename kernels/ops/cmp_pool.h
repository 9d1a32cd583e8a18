#ifndef NSA_KERNELS_OPS_CMP_POOL_H_
#define NSA_KERNELS_OPS_CMP_POOL_H_

#include "kernels/ops/attention.h"

namespace nsa::kernels {

/// Which keys are averaged (algorithm.md §2, "K that is pooled").
enum class PooledKeys : uint8_t {
  kRotated,    // the keys as rotated by their positions
  kUnrotated,  // un-rotated keys, the row then rotated at its window's first position
};

/// Compression (NSA Eq. 7 with φ = mean): a row per window of `length` tokens, one every `stride`.
/// Window i covers tokens [i·stride, i·stride + length). Writes the rows of all windows whose last
/// token is among the segments' rows; reads stored pages only, so rope_kv_write comes first.
/// `stride` divides 64 and `length`; length ≥ stride. The rotary table covers the rows' pages where
/// keys are absolute. Sums are taken in float32 in token order.
struct CmpPoolParams {
  const AttentionSegment* segments = nullptr;  // [num_segments]
  int num_segments = 0;
  PagedKv kv;
  RopeView rope;
  int length = 32;
  int stride = 16;
  PooledKeys pooled_keys = PooledKeys::kRotated;
};

/// Index of the page and of the slot in it that hold window `window_index`'s row.
struct CmpSlot {
  int64_t page_index;  // in the sequence's page table
  int slot;            // in [0, 64 / stride)
};
constexpr CmpSlot FindCmpSlot(int64_t window_index, int length, int stride) {
  const int64_t last_stride = window_index + length / stride - 1;
  const int rows_per_page = kPageSize / stride;
  return {last_stride / rows_per_page, static_cast<int>(last_stride % rows_per_page)};
}

/// Number of windows that the query at `position` sees: those that end at or before it.
constexpr int64_t NumVisibleWindows(int64_t position, int length, int stride) {
  return position + 1 < length ? 0 : (position + 1 - length) / stride + 1;
}

/// Windows whose last token is among a segment's rows: [first, end).
struct WindowRange {
  int64_t first;
  int64_t end;
  constexpr int64_t size() const { return end - first; }
};
constexpr WindowRange ClosedWindows(const AttentionSegment& segment, int length, int stride) {
  return {NumVisibleWindows(segment.position - 1, length, stride),
          NumVisibleWindows(segment.position + segment.num_rows - 1, length, stride)};
}

}  // namespace nsa::kernels

#endif  // NSA_KERNELS_OPS_CMP_POOL_H_
