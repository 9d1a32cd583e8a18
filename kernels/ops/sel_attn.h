#ifndef NSA_KERNELS_OPS_SEL_ATTN_H_
#define NSA_KERNELS_OPS_SEL_ATTN_H_

#include "kernels/ops/attention.h"

namespace nsa::kernels {

/// Attention over the tokens ≤ t of the selected sel_blocks (NSA §3.3.2).
///
/// A page that stands more than `max_page_distance` pages before the query's is read as if it stood
/// so far (training-free: distances stay inside what the model was trained for).
/// Where `reads_window` holds, the page-aligned window of `window_size` > 0 is read in the same
/// softmax, at true distances: what win_attn and merge would join, in one pass.
struct SelAttnParams {
  AttentionQuery query;
  int sel_block_size = 64;
  int num_selected_blocks = 16;           // row length of `selected`
  const int32_t* selected = nullptr;      // [num_rows, num_kv_heads, num_selected_blocks] rising
  const int32_t* num_selected = nullptr;  // [num_rows, num_kv_heads]
  int64_t max_page_distance = -1;         // −1: no limit
  int64_t window_size = 0;                // as in ScoreTopkParams
  bool reads_window = false;
  BranchOutput result;
};

}  // namespace nsa::kernels

#endif  // NSA_KERNELS_OPS_SEL_ATTN_H_
