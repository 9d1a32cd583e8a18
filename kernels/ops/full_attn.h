#ifndef NSA_KERNELS_OPS_FULL_ATTN_H_
#define NSA_KERNELS_OPS_FULL_ATTN_H_

#include "kernels/ops/attention.h"

namespace nsa::kernels {

/// Causal attention over all tokens ≤ t at their absolute positions.
struct FullAttnParams {
  AttentionQuery query;
  BranchOutput result;
};

}  // namespace nsa::kernels

#endif  // NSA_KERNELS_OPS_FULL_ATTN_H_
