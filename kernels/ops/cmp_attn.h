#ifndef NSA_KERNELS_OPS_CMP_ATTN_H_
#define NSA_KERNELS_OPS_CMP_ATTN_H_

#include "kernels/ops/attention.h"

namespace nsa::kernels {

/// Where one operator leaves the scores of compressed rows for the next.
struct CmpScores {
  float* data = nullptr;  // [num_rows, num_q_heads, stride]: scale·q·K̂ of the cache's row u, where
                          // window u + 1 − length/stride is visible; null: not kept
  int64_t stride = 0;     // floats, a multiple of 16, more than 16 beyond the pages that rows see
};

/// Floats for one query's scores: those of its last row's `num_pages` pages, and padding.
constexpr int64_t CmpScoreStride(int64_t num_pages, int stride) {
  return (num_pages * (kPageSize / stride) + 32) / 16 * 16;
}

/// Attention over the compressed rows of all windows that the query sees (NSA Eq. 7 with Eq. 5).
/// Where `result.out` is null only the log-sum-exp is made (checkpoints without V̂). Where `scores`
/// is given, a row's scores stay there for score_topk, which makes them anew otherwise.
struct CmpAttnParams {
  AttentionQuery query;
  int length = 32;
  int stride = 16;
  /// Distance in pages between the query's page and a compressed row's page is taken as at most
  /// this (training-free NSA: scores stay inside trained distances); negative: no limit.
  int64_t max_page_distance = -1;
  BranchOutput result;
  CmpScores scores;
};

}  // namespace nsa::kernels

#endif  // NSA_KERNELS_OPS_CMP_ATTN_H_
