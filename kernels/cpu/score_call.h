#ifndef NSA_KERNELS_CPU_SCORE_CALL_H_
#define NSA_KERNELS_CPU_SCORE_CALL_H_

#include <algorithm>
#include <cstdint>

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/paged_attention.h"
#include "kernels/ops/cmp_pool.h"
#include "kernels/ops/score_topk.h"

/// What the parts of score_topk know of a call.
namespace nsa::kernels::cpu {

/// Arrays that are read in whole vectors are this much longer than what they hold.
inline constexpr int64_t kVectorPadding = 16;

/// Pages whose clusters are normalised together: a constant of the arithmetic, so independent of
/// rows and threads, and few enough for the first-level cache.
inline constexpr int64_t kPagesPerRange = 16;
static_assert(kPagesPerRange % kVectorPadding == 0, "a vector of pages lies in one range");

/// Scores of one query against clusters, reduced: Σ_c exp(score − maximum of the range) for each
/// page, and for each range of kPagesPerRange pages that maximum and the sum over the range.
struct ClusterMasses {
  float* masses;  // [num_pages]
  float* maxima;  // [num_ranges]
  float* sums;    // [num_ranges]
};

/// One call: how many windows and candidates its rows have. Windows are counted by the stride that
/// they end with, as the cache does: row u of the cache is window u + 1 − length/stride.
struct ScoreCall {
  const ScoreTopkParams& params;
  int group;
  List<RowTile> tiles;

  bool HasClusters() const { return params.num_clusters > 0; }
  int RowsPerPage() const { return kPageSize / params.stride; }
  int NumQueries(const RowTile& tile) const { return tile.num_rows * group; }
  int64_t FirstRow() const { return params.length / params.stride - 1; }
  int64_t EndRow(int64_t position) const {
    return std::max(FirstRow(), (position + 1) / params.stride);
  }
  int64_t NumCandidates(int64_t position) const {
    const int64_t size = params.sel_block_size;
    if (params.window_size == 0) return position / size + 1;
    return PageAlignedWindowStart(position, params.window_size) / size;
  }
  int64_t NumSelected(int64_t row) const {
    return params.row_num_selected_blocks != nullptr ? params.row_num_selected_blocks[row]
                                                     : params.num_selected_blocks;
  }
  /// Pages to score for a tile: none where every row may take all its candidates, or where cmp_attn
  /// left the scores.
  int64_t NumPages(const RowTile& tile) const {
    if (params.cmp_scores.data != nullptr) return 0;
    for (int32_t i = 0; i < tile.num_rows; ++i) {
      const QueryRow row = tile.Row(i);
      if (NumCandidates(row.position) <= NumSelected(row.row)) continue;
      // Clusters compete with those of candidates alone, which are the same for a tile's rows.
      if (HasClusters()) return NumCandidates(row.position);
      const int64_t end = EndRow(tile.Row(tile.num_rows - 1).position);
      return end == FirstRow() ? 0 : (end + RowsPerPage() - 1) / RowsPerPage();
    }
    return 0;
  }
  int64_t NumRanges(const RowTile& tile) const {
    return (NumPages(tile) + kPagesPerRange - 1) / kPagesPerRange;
  }

  /// Floats of one query's scores; of clusters, of its ClusterMasses.
  int64_t ScoreFloats(const RowTile& tile) const {
    if (HasClusters()) return Padded(NumPages(tile)) + 2 * Padded(NumRanges(tile));
    return Padded(NumPages(tile) * RowsPerPage());
  }
  /// Floats that scoring needs: the queries, and of clusters the scores of a range.
  int64_t ScorerFloats(const RowTile& tile, int num_kv_heads) const {
    const int64_t num_queries = int64_t{num_kv_heads} * NumQueries(tile);
    const int64_t floats = CmpScorerFloats(num_queries, params.query.kv.head_dim_k, RowsPerPage());
    return HasClusters() ? floats + num_queries * RangeFloats() : floats;
  }
  int64_t RangeFloats() const { return kPagesPerRange * RowsPerPage() + 2 * kVectorPadding; }
  /// Windows that the log-sum-exp is over, where it is not over all.
  int64_t NumCoarseWindows(int64_t position) const {
    const int factor = params.lse_windows;
    if (factor == 1) return 0;
    return NumVisibleWindows(position, factor * params.length, factor * params.stride);
  }
  /// Floats that choosing needs: a key for each candidate, then the group's probabilities and the
  /// scores of coarse windows, or of clusters each head's factors for the ranges.
  int64_t ChooserFloats(const RowTile& tile) const {
    const int64_t position = tile.Row(tile.num_rows - 1).position;
    const int64_t num_candidates = NumCandidates(position);
    const int64_t rest =
        HasClusters() ? group * Padded(NumRanges(tile))
                      : ProbabilityFloats(num_candidates) + Padded(NumCoarseWindows(position));
    return Padded(num_candidates) + rest;
  }
  int64_t ProbabilityFloats(int64_t num_candidates) const {
    return Padded(num_candidates * (params.sel_block_size / params.stride) + FirstRow());
  }

  static int64_t Padded(int64_t count) {
    return (count + 2 * kVectorPadding) / kVectorPadding * kVectorPadding;
  }
};

/// Where a tile's ClusterMasses stand in its scores.
struct MassLayout {
  int64_t num_pages;
  int64_t num_ranges;

  MassLayout(const ScoreCall& call, const RowTile& tile)
      : num_pages(call.NumPages(tile)), num_ranges(call.NumRanges(tile)) {}

  ClusterMasses Of(float* scores, int64_t query) const {
    const int64_t page_floats = ScoreCall::Padded(num_pages);
    const int64_t range_floats = ScoreCall::Padded(num_ranges);
    float* masses = scores + query * (page_floats + 2 * range_floats);
    return {masses, masses + page_floats, masses + page_floats + range_floats};
  }
};

/// What one task scores for a tile's rows.
struct ScorePart {
  int first_kv_head;
  int num_kv_heads;
  int64_t first_page;  // a multiple of kPagesPerRange
  int64_t end_page;
};

}  // namespace nsa::kernels::cpu

#endif  // NSA_KERNELS_CPU_SCORE_CALL_H_
