#ifndef NSA_KERNELS_OPS_SPARSE_ATTN_H_
#define NSA_KERNELS_OPS_SPARSE_ATTN_H_

#include <functional>
#include <optional>

#include "kernels/ops/cmp_attn.h"
#include "kernels/ops/merge.h"
#include "kernels/ops/score_topk.h"
#include "kernels/ops/sel_attn.h"
#include "kernels/ops/win_attn.h"

namespace nsa::kernels {

/// Seconds by branch; scoring counts as cmp. Together what the calls took.
struct SparseAttnTimes {
  double cmp = 0;
  double slc = 0;
  double win = 0;
  double merge = 0;
};

/// One layer's sparse attention behind compression: cmp_attn, score_topk, sel_attn, win_attn and
/// merge, in this order, where they are there. One call, so that a backend may run parts of
/// different operators at the same time; results have the bits of the calls one by one.
struct SparseAttnParams {
  std::optional<CmpAttnParams> cmp;
  ScoreTopkParams score;
  SelAttnParams sel;
  std::optional<WinAttnParams> win;
  std::optional<MergeParams> merge;
  /// Called between score_topk and sel_attn, which then are not run at the same time: may change
  /// what was chosen, to less. Null: nobody asks.
  const std::function<void()>* on_chosen = nullptr;
  SparseAttnTimes* times = nullptr;  // added to where not null
};

}  // namespace nsa::kernels

#endif  // NSA_KERNELS_OPS_SPARSE_ATTN_H_
