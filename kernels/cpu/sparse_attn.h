#ifndef NSA_KERNELS_CPU_SPARSE_ATTN_H_
#define NSA_KERNELS_CPU_SPARSE_ATTN_H_

#include <cstdint>

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/paged_attention.h"
#include "kernels/cpu/staged_call.h"

/// The operators of sparse attention as calls in stages. Parameters outlive what is returned.
namespace nsa::kernels::cpu {

/// The last stage leaves the result.
StagedCallPtr StageCmpAttn(Context& context, const ListScope& scope, const CmpAttnParams& params);

/// The last stage ends when every list is chosen. Reads log-sum-exps and scores of cmp_attn, where
/// `params` names them, in any stage.
StagedCallPtr StageScoreTopk(Context& context, const ListScope& scope,
                             const ScoreTopkParams& params);

/// Blocks that score_topk chooses for a row and a KV head; fewer where scores are NaN.
int64_t NumChosenBlocks(const ScoreTopkParams& params, const QueryRow& row);

/// Stages: PagedStage. `choice`: the call that chooses, where that has not run; null: it has.
StagedCallPtr StageSelAttn(Context& context, const ListScope& scope, const SelAttnParams& params,
                           const ScoreTopkParams* choice);

/// Stages: PagedStage.
StagedCallPtr StageWinAttn(Context& context, const ListScope& scope, const WinAttnParams& params);

StagedCallPtr StageMerge(const ListScope& scope, const MergeParams& params);

}  // namespace nsa::kernels::cpu

#endif  // NSA_KERNELS_CPU_SPARSE_ATTN_H_
