#ifndef NSA_KERNELS_OPS_SEL_ATTN_H_
#define NSA_KERNELS_OPS_SEL_ATTN_H_

#include "kernels/ops/attention.h"

namespace nsa::kernels {

/// Attention over the tokens ≤ t of the selected sel_blocks (NSA §3.3.2).
///
/// `relative_positions` (training-free, algorithm.md §3; needs sel_block_size 64 and window_size >
/// 0): the i-th of m selected pages is read as if it stood at distance m − i pages before the
/// window's first page, so the query is rotated by 64·(m − i + t/64 − window_start/64) + t mod 64.
/// Otherwise pages stand where they are.
struct SelAttnParams {
  AttentionQuery query;
  int sel_block_size = 64;
  int num_selected_blocks = 16;           // row length of `selected`
  const int32_t* selected = nullptr;      // [num_rows, num_kv_heads, num_selected_blocks] rising
  const int32_t* num_selected = nullptr;  // [num_rows, num_kv_heads]
  bool relative_positions = false;
  int64_t window_size = 0;  // as in ScoreTopkParams
  BranchOutput result;
};

}  // namespace nsa::kernels

#endif  // NSA_KERNELS_OPS_SEL_ATTN_H_
