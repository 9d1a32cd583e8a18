#ifndef NSA_KERNELS_OPS_CMP_CLUSTER_H_
#define NSA_KERNELS_OPS_CMP_CLUSTER_H_

#include "kernels/check.h"
#include "kernels/ops/attention.h"

namespace nsa::kernels {

/// Compression by clustering, for checkpoints that were not trained to be read through means: each
/// page's keys, as stored, fall into `num_clusters` groups of neighbours, and row c of the page is
/// the mean of group c with the bias log(size of c). So Σ_c exp(scale·q·K̂_c + bias_c) estimates
/// Σ_t exp(scale·q·k_t) of the page. Means of consecutive tokens (cmp_pool)
/// dilute the one key that matters; here a key unlike its neighbours has a row of its own.
///
/// k-means by Lloyd (1982): seeded by the token farthest from the page's mean, then each time by
/// the token farthest from all seeds (Gonzalez 1985); kClusterIterations rounds of assignment to
/// the nearest mean. Ties go to the lower index. A group that loses all its tokens keeps its mean
/// and has bias −inf. All sums are float32, in dimension and token order, not fused: every backend
/// gives the same bits for finite keys. Writes all pages whose last token is among the segments'
/// rows; reads stored pages only, so rope_kv_write comes first.
struct CmpClusterParams {
  const AttentionSegment* segments = nullptr;  // [num_segments]
  int num_segments = 0;
  PagedKv kv;            // with biases, without V̂; cmp_dtype kF32 or kInt8
  int num_clusters = 8;  // rows per page: a power of two from 1 to 64
};

/// Ends the program where a cache cannot hold clusters.
inline void CheckClusterRows(const PagedKv& kv) {
  NSA_CHECK(kv.cmp_bias_offset >= 0 && kv.cmp_v_offset < 0 && !kv.cmp_absolute);
  NSA_CHECK(kv.cmp_dtype == DType::kF32 ||
            (kv.cmp_dtype == DType::kInt8 && kv.cmp_scale_offset >= 0));
}

inline constexpr int kClusterIterations = 4;

/// Pages whose last token is among a segment's rows: [first, end).
struct PageRange {
  int64_t first;
  int64_t end;
};
constexpr PageRange CompletedPages(const AttentionSegment& segment) {
  return {segment.position / kPageSize, (segment.position + segment.num_rows) / kPageSize};
}

}  // namespace nsa::kernels

#endif  // NSA_KERNELS_OPS_CMP_CLUSTER_H_
