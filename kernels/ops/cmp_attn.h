#ifndef NSA_KERNELS_OPS_CMP_ATTN_H_
#define NSA_KERNELS_OPS_CMP_ATTN_H_

#include "kernels/ops/attention.h"

namespace nsa::kernels {

/// Attention over the compressed rows of all windows that the query sees (NSA Eq. 7 with Eq. 5).
/// Where `result.out` is null only the log-sum-exp is made (checkpoints without V̂).
struct CmpAttnParams {
  AttentionQuery query;
  int length = 32;
  int stride = 16;
  /// Distance in pages between the query's page and a compressed row's page is taken as at most
  /// this (training-free NSA: scores stay inside trained distances); negative: no limit.
  int64_t max_page_distance = -1;
  BranchOutput result;
};

}  // namespace nsa::kernels

#endif  // NSA_KERNELS_OPS_CMP_ATTN_H_
