#ifndef NSA_KERNELS_REFERENCE_COMPRESSED_ROWS_H_
#define NSA_KERNELS_REFERENCE_COMPRESSED_ROWS_H_

#include <cstdint>

#include "kernels/ops/cmp_gather.h"

namespace nsa::kernels::reference {

/// Whose row a row of CompressedRows is.
struct CmpRowPlace {
  const AttentionSegment* segment;
  int64_t window;
  int kv_head;
};

/// Calls body(row, place) for rows [0, num_rows), which are first_row … of all.
template <typename Body>
void ForEachCmpRow(const CompressedRows& rows, Body&& body) {
  int64_t row = -rows.first_row;
  for (int s = 0; s < rows.num_segments; ++s) {
    const WindowRange closed = ClosedWindows(rows.segments[s], rows.length, rows.stride);
    for (int64_t window = closed.first; window < closed.end; ++window) {
      for (int head = 0; head < rows.kv.num_kv_heads; ++head, ++row) {
        if (row >= 0 && row < rows.num_rows) {
          body(row, CmpRowPlace{&rows.segments[s], window, head});
        }
      }
    }
  }
}

}  // namespace nsa::kernels::reference

#endif  // NSA_KERNELS_REFERENCE_COMPRESSED_ROWS_H_
