#ifndef NSA_KERNELS_OPS_WIN_ATTN_H_
#define NSA_KERNELS_OPS_WIN_ATTN_H_

#include "kernels/ops/attention.h"

namespace nsa::kernels {

/// Sliding-window attention: tokens (t − window_size, t], the query's own included; or, where
/// `page_aligned`, tokens [PageAlignedWindowStart(t, window_size), t].
struct WinAttnParams {
  AttentionQuery query;
  int64_t window_size = 512;
  bool page_aligned = false;
  BranchOutput result;
};

}  // namespace nsa::kernels

#endif  // NSA_KERNELS_OPS_WIN_ATTN_H_
