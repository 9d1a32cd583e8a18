#ifndef NSA_KERNELS_OPS_SCORE_TOPK_H_
#define NSA_KERNELS_OPS_SCORE_TOPK_H_

#include "kernels/check.h"
#include "kernels/ops/attention.h"
#include "kernels/ops/cmp_attn.h"

namespace nsa::kernels {

/// From the probabilities p of windows to the score of a selection block (sel_block).
enum class BlockScore : uint8_t {
  kOverlapSum,  // NSA Eq. 9: Σ over overlapping windows, as often as they overlap in strides;
                // for l/d/l' = 32/16/64: Σ_{i=4j−1}^{4j+3} w_i·p[i], w = 1,2,2,2,1
  kOverlapMax,  // the maximum over overlapping windows
};

enum class GroupReduction : uint8_t { kSum, kMean };

/// Importance scores and the top-n choice of sel_blocks per (query row, KV head) (NSA Eq. 8–10):
/// p = softmax over the visible windows of scale·q·K̂, per query head; p reduced over the group's
/// heads in head order; block scores from that (the order matters for kOverlapMax: InfLLM-v2 pools
/// the group's sum); the best n with the forced ones included, which come in index order where n is
/// smaller than their number. A block without a visible window scores 0. Probabilities are
/// never written out. Candidates are the sel_blocks that begin at or before the query, or, where
/// `window_size` > 0, those that end at or before PageAlignedWindowStart (selection and window are
/// disjoint). If no more than n are candidates, all are taken and nothing is scored. A score that
/// is NaN is never chosen; ties go to the lower index.
/// Where `decay_page_distance` is D ≥ 1, the score of a block that begins δ > D pages before the
/// query's page is multiplied by D/δ.
/// With `num_clusters` > 0 the rows are clusters (cmp_cluster) in the place of windows: sel_blocks
/// are pages, p = softmax over the clusters of all candidates of scale·q·K̂ + bias, and a block's
/// score is the sum of its clusters' p, reduced over the group. It needs kOverlapSum and
/// `window_size` > 0: a page is clustered when it is full.
/// Where clusters are kInt8, the query of all pages at max_page_distance (of all pages, where
/// rotary_dim is 0) is rounded to 8 bits as such a row is, after scale and rotation.
struct ScoreTopkParams {
  AttentionQuery query;
  int length = 32;          // l
  int stride = 16;          // d
  int num_clusters = 0;     // > 0: rows per page, and length and stride are not read
  int sel_block_size = 64;  // l': a multiple of stride that divides 64 or is a multiple of it
  int64_t max_page_distance = -1;    // as in CmpAttnParams
  int64_t decay_page_distance = -1;  // −1: scores do not decay
  const float* cmp_lse = nullptr;    // [num_rows, num_q_heads] of cmp_attn, or null: made here
  CmpScores cmp_scores;              // of cmp_attn, with cmp_lse; they are overwritten
  /// Terms of the log-sum-exp: 1: every window; f > 1: every window of f·length tokens, one every
  /// f·stride, whose key would be the mean of f windows and whose score is that of theirs
  /// (InfLLM-v2 normalises so with f = 4). A query that sees no such window takes all windows. Not
  /// with cmp_lse.
  int lse_windows = 1;
  BlockScore block_score = BlockScore::kOverlapSum;
  GroupReduction group_reduction = GroupReduction::kSum;
  int num_selected_blocks = 16;  // n
  /// Per-row n where requests differ: [num_rows], each in [1, num_selected_blocks]; null: all n.
  const int32_t* row_num_selected_blocks = nullptr;
  int num_initial_blocks = 1;       // forced: blocks 0 … num_initial_blocks − 1
  int num_local_blocks = 2;         // forced: the query's own block and those before it
  int64_t window_size = 0;          // > 0: disjoint from the page-aligned window, no local blocks
  int32_t* selected = nullptr;      // [num_rows, num_kv_heads, num_selected_blocks] rising; then −1
  int32_t* num_selected = nullptr;  // [num_rows, num_kv_heads]
};

/// The same call with `length` and `stride` set: a page's clusters stand in the cache as windows of
/// length = stride = 64/num_clusters would. Ends the program where fields contradict each other.
inline ScoreTopkParams WithClustersAsWindows(ScoreTopkParams params) {
  NSA_CHECK((params.num_clusters > 0) == (params.query.kv.cmp_bias_offset >= 0));
  NSA_CHECK(params.decay_page_distance != 0);
  NSA_CHECK(params.cmp_scores.data == nullptr || params.cmp_lse != nullptr);
  NSA_CHECK(params.lse_windows == 1 || (params.num_clusters == 0 && params.cmp_lse == nullptr));
  if (params.num_clusters == 0) return params;
  NSA_CHECK(kPageSize % params.num_clusters == 0 && params.sel_block_size == kPageSize);
  NSA_CHECK(params.window_size > 0 && params.cmp_lse == nullptr);
  NSA_CHECK(params.block_score == BlockScore::kOverlapSum);
  params.length = params.stride = kPageSize / params.num_clusters;
  return params;
}

}  // namespace nsa::kernels

#endif  // NSA_KERNELS_OPS_SCORE_TOPK_H_
