#ifndef NSA_KERNELS_OPS_ROPE_KV_WRITE_H_
#define NSA_KERNELS_OPS_ROPE_KV_WRITE_H_

#include "kernels/ops/attention.h"

namespace nsa::kernels {

/// Stores the K and V of new tokens: K rotated by t mod 64, both rounded to the cache's dtype
/// (to nearest even), into page page_table[t / 64].
struct RopeKvWriteParams {
  const float* k = nullptr;  // [num_rows, num_kv_heads, head_dim_k], not rotated
  int64_t k_stride = 0;      // floats from a row to the next
  const float* v = nullptr;  // [num_rows, num_kv_heads, head_dim_v]
  int64_t v_stride = 0;
  const AttentionSegment* segments = nullptr;  // [num_segments]
  int num_segments = 0;
  PagedKv kv;
  RopeView rope;
};

}  // namespace nsa::kernels

#endif  // NSA_KERNELS_OPS_ROPE_KV_WRITE_H_
