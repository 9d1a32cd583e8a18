#ifndef NSA_KERNELS_CUDA_SPLIT_ATTENTION_H_
#define NSA_KERNELS_CUDA_SPLIT_ATTENTION_H_

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/cuda.h"
#include "kernels/ops/attention.h"
#include "kernels/ops/cmp_attn.h"
#include "kernels/ops/score_topk.h"
#include "kernels/ops/sel_attn.h"

/// Attention over rows of the paged cache: what full_attn, win_attn, sel_attn and cmp_attn share,
/// and the scores of score_topk.
///
/// The rows that a query reads have numbers: tokens and compressed rows those of the sequence,
/// tokens of a selection those of their place in it. They are cut into splits where numbers are
/// multiples of 512, so that the cut depends on what the query reads alone. Each split's softmax is
/// made by itself, and splits are joined by their log-sum-exps in rising order. Either every split
/// has a CTA and leaves its part in the workspace, or one CTA makes all splits of its rows: the
/// same arithmetic, the same bits.
namespace nsa::kernels::cuda {

/// The cache's tokens or its compressed rows, seen the same way: pages of 2^rows_log2 rows. All but
/// rows_log2 as in PagedKv.
struct PagedRows {
  DType dtype = DType::kF32;
  const std::byte* slots = nullptr;
  int64_t page_stride = 0;
  int64_t head_stride = 0;
  int64_t v_offset = 0;
  int64_t scale_offset = -1;
  int64_t bias_offset = -1;
  const int32_t* places = nullptr;
  int64_t places_stride = 0;
  int rows_log2 = 0;
  bool has_key_quads = false;  // keys [⌈head_dim_k/4⌉, rows, 4]
  bool is_absolute = false;    // keys stand in the frame of the sequence
};

/// What score_topk may choose from (ops/score_topk.h).
struct Candidates {
  int sel_block_size = 0;  // 0: no score_topk, every row reads all that it sees
  int64_t window_size = 0;
  int num_clusters = 0;
  int num_selected_blocks = 0;
  const int32_t* row_num_selected_blocks = nullptr;
};

/// Where a group's probabilities go in the place of scores: Σ exp(score − log-sum-exp) over its
/// heads in their order, or the mean.
struct GroupMasses {
  float* data = nullptr;       // [rows of the batch, num_kv_heads, stride], numbered as CmpScores
  int64_t stride = 0;          // floats
  const float* lse = nullptr;  // [num_rows, num_q_heads]
  bool is_mean = false;
};

enum class Reads : uint8_t {
  kTokens,      // all, or those of a window
  kSelection,   // those of selected sel_blocks, and of the window behind them
  kCompressed,  // compressed rows of windows that the query sees, or of clusters
};

struct SplitAttention {
  AttentionQuery query;
  Reads reads = Reads::kTokens;
  int64_t window_size = -1;        // kTokens: −1: all; kSelection: as in SelAttnParams
  bool page_aligned = false;       // kTokens: as in WinAttnParams
  int64_t max_page_distance = -1;  // as in SelAttnParams and CmpAttnParams
  // kSelection, as in SelAttnParams.
  int sel_block_size = kPageSize;
  int num_selected_blocks = 0;
  const int32_t* selected = nullptr;
  const int32_t* num_selected = nullptr;
  bool reads_window = false;
  // kCompressed, as in ScoreTopkParams behind WithClustersAsWindows.
  int length = 0;
  int stride = 0;
  Candidates candidates = {};
  CmpScores scores = {};
  GroupMasses masses = {};  // without scores and result, and where CanSumGroups
  // Without `out` no values are read, without `lse` as well there is no softmax.
  BranchOutput result = {};
  // A score_topk of some rows: those from `first_index` on, counted over the segments as they
  // stand; `scores` and `result` have rows for them alone.
  bool is_batch = false;
  int64_t first_index = 0;
  bool uses_tensor_cores = true;  // where they can do it (mma_attention.h)

  // Of the launch, set by LaunchSplitAttention.
  PagedRows rows = {};
  int stretch_log2 = 0;
  bool one_row_each = false;
  int64_t num_rows = 0;
  int rows_per_tile = 1;  // consecutive rows of a segment that a CTA takes (mma_tile.h)
  bool cta_per_split = false;
  int64_t num_splits = 0;  // of a row, at most
  float* parts = nullptr;  // [num_rows, num_q_heads, num_splits, {maximum, sum, out [head_dim_v]}]
};

/// Splits that a row of the call has, at most.
int64_t MaxSplits(const SplitAttention& attention, const SegmentsShape& shape);

/// Whether the kernels of a call may leave masses.
bool CanSumGroups(SplitAttention attention, const SegmentsShape& shape);

void LaunchSplitAttention(Stream& stream, const char* name, SplitAttention attention,
                          const SegmentsShape& shape, const Workspace& workspace);

}  // namespace nsa::kernels::cuda

#endif  // NSA_KERNELS_CUDA_SPLIT_ATTENTION_H_
