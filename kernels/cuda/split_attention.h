#ifndef NSA_KERNELS_CUDA_SPLIT_ATTENTION_H_
#define NSA_KERNELS_CUDA_SPLIT_ATTENTION_H_

#include <cstdint>

#include "kernels/cuda/cuda.h"
#include "kernels/ops/attention.h"

/// Attention over consecutive tokens: what full_attn and win_attn share.
///
/// A row's tokens are cut into splits where their positions are multiples of 512, so that the cut
/// depends on positions alone. Each split's softmax is made by itself, and splits are joined by
/// their log-sum-exps in rising order. Either every split has a CTA and leaves its part in the
/// workspace, or one CTA makes all splits of its row: the same arithmetic, the same bits.
namespace nsa::kernels::cuda {

struct SplitAttention {
  AttentionQuery query;
  int64_t window_size = -1;   // −1: all tokens
  bool page_aligned = false;  // as in WinAttnParams
  BranchOutput result;
  // Of the launch.
  bool one_row_each = false;
  int64_t num_splits = 0;  // of a row, at most
  float* parts = nullptr;  // [num_rows, num_q_heads, num_splits, {maximum, sum, out [head_dim_v]}]
                           // or null: one CTA makes all splits of its row
};

void LaunchSplitAttention(Stream& stream, const char* name, SplitAttention attention,
                          const SegmentsShape& shape, const Workspace& workspace);

}  // namespace nsa::kernels::cuda

#endif  // NSA_KERNELS_CUDA_SPLIT_ATTENTION_H_
