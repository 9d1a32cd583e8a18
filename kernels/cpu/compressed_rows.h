#ifndef NSA_KERNELS_CPU_COMPRESSED_ROWS_H_
#define NSA_KERNELS_CPU_COMPRESSED_ROWS_H_

#include <algorithm>
#include <cstdint>

#include "kernels/check.h"
#include "kernels/cpu/cpu.h"
#include "kernels/ops/cmp_gather.h"

namespace nsa::kernels::cpu {

/// Whose row a row of CompressedRows is.
struct CmpRowPlace {
  const AttentionSegment* segment;
  int64_t window;
  int kv_head;
};

/// Calls body(row, place) for rows [0, num_rows), which are first_row … of all, on all threads.
template <typename Body>
void ForEachCmpRow(Context& context, const CompressedRows& rows, Body&& body) {
  NSA_CHECK(rows.stride > 0 && kPageSize % rows.stride == 0);
  NSA_CHECK(rows.length >= rows.stride && rows.length % rows.stride == 0);
  const ListScope scope(context);
  List<CmpRowPlace> places(scope.memory());
  const int num_kv_heads = rows.kv.num_kv_heads;
  const int64_t end = rows.first_row + rows.num_rows;
  int64_t segment_row = 0;  // the segment's first
  for (int s = 0; s < rows.num_segments && segment_row < end; ++s) {
    const WindowRange closed = ClosedWindows(rows.segments[s], rows.length, rows.stride);
    const int64_t next = segment_row + closed.size() * num_kv_heads;
    for (int64_t row = std::max(rows.first_row, segment_row); row < std::min(end, next); ++row) {
      const int64_t index = row - segment_row;
      places.push_back({&rows.segments[s], closed.first + index / num_kv_heads,
                        static_cast<int>(index % num_kv_heads)});
    }
    segment_row = next;
  }
  NSA_CHECK(static_cast<int64_t>(places.size()) == rows.num_rows);
  context.pool.ParallelFor(rows.num_rows, [&](int64_t row, int worker) {
    body(row, places[static_cast<size_t>(row)], context.worker[static_cast<size_t>(worker)]);
  });
}

}  // namespace nsa::kernels::cpu

#endif  // NSA_KERNELS_CPU_COMPRESSED_ROWS_H_
