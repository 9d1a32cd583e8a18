#ifndef NSA_KERNELS_OPS_CMP_GATHER_H_
#define NSA_KERNELS_OPS_CMP_GATHER_H_

#include "kernels/ops/attention.h"
#include "kernels/ops/cmp_pool.h"

namespace nsa::kernels {

/// Some of the rows, one for each (window, KV head), that stand for windows which close with the
/// segments' rows: by segment, window and head.
struct CompressedRows {
  const AttentionSegment* segments = nullptr;  // [num_segments]
  int num_segments = 0;
  PagedKv kv;
  int length = 32;
  int stride = 16;
  bool values = false;    // of V instead of K
  int64_t first_row = 0;  // of all rows
  int64_t num_rows = 0;

  constexpr int head_dim() const { return values ? kv.head_dim_v : kv.head_dim_k; }
};

/// Windows whose last token is among the segments' rows.
inline int64_t NumClosedWindows(const AttentionSegment* segments, int num_segments, int length,
                                int stride) {
  int64_t count = 0;
  for (int s = 0; s < num_segments; ++s) {
    count += ClosedWindows(segments[s], length, stride).size();
  }
  return count;
}

/// The tokens of windows as rows for a product: y = vec(x + position) with x the window's keys (or
/// values) as stored, in token order (NSA Eq. 7, φ's input). Reads stored pages only; for keys the
/// pages hold them not rotated.
struct CmpGatherParams {
  CompressedRows rows;
  const float* position = nullptr;  // [length, head_dim]
  float* y = nullptr;               // [num_rows, length, head_dim], dense
};

}  // namespace nsa::kernels

#endif  // NSA_KERNELS_OPS_CMP_GATHER_H_
