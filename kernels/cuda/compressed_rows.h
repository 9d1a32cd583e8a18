#ifndef NSA_KERNELS_CUDA_COMPRESSED_ROWS_H_
#define NSA_KERNELS_CUDA_COMPRESSED_ROWS_H_

#include <bit>
#include <cstdint>

#include "kernels/check.h"
#include "kernels/cuda/device.h"
#include "kernels/ops/cmp_gather.h"

/// From a row of CompressedRows to its window (ops/cmp_gather.h).
namespace nsa::kernels::cuda {

struct CompressedRow {
  const int32_t* page_table;
  int64_t window;
  int64_t kv_head;
};

/// CompressedRows with what is cheaper to know on the host. The stride divides 64: it is a power of
/// two, and a GPU shifts where it would call a subroutine to divide.
struct CompressedRowsArgs {
  CompressedRows rows;
  int log2_stride = 0;

  explicit CompressedRowsArgs(const CompressedRows& of) : rows(of) {
    NSA_CHECK(of.stride > 0 && kPageSize % of.stride == 0 && of.length % of.stride == 0);
    NSA_CHECK(of.first_row + of.num_rows <= INT32_MAX);
    log2_stride = std::countr_zero(static_cast<unsigned>(of.stride));
  }
};

/// NumVisibleWindows before the token at `end`.
NSA_DEVICE int64_t WindowsBefore(const CompressedRowsArgs& args, int64_t end) {
  const int64_t behind = end - args.rows.length;
  return behind < 0 ? 0 : (behind >> args.log2_stride) + 1;
}

/// Row `index` of [0, num_rows). Every thread walks the segments by itself, as FindRow does.
NSA_DEVICE CompressedRow FindCompressedRow(const CompressedRowsArgs& args, int64_t index) {
  const CompressedRows& rows = args.rows;
  const Split by_head = SplitIndex(rows.first_row + index, rows.kv.num_kv_heads);
  int64_t left = by_head.quotient;
  for (int s = 0; s < rows.num_segments; ++s) {
    const AttentionSegment& segment = rows.segments[s];
    const int64_t first = WindowsBefore(args, segment.position);
    const int64_t count = WindowsBefore(args, segment.position + segment.num_rows) - first;
    if (left < count) return {segment.page_table, first + left, by_head.remainder};
    left -= count;
  }
  DeviceCheck(false);  // fewer windows close than the call has rows
  return {};
}

}  // namespace nsa::kernels::cuda

#endif  // NSA_KERNELS_CUDA_COMPRESSED_ROWS_H_
