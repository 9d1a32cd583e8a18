#ifndef NSA_TESTS_KERNELS_SCORE_TOPK_ORACLE_H_
#define NSA_TESTS_KERNELS_SCORE_TOPK_ORACLE_H_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <set>
#include <vector>

#include "kernels/ops/cmp_attn.h"
#include "kernels/ops/score_topk.h"
#include "kernels/reference/paged_attention.h"
#include "tests/kernels/attention_cases.h"

/// The settings that score_topk is tried with, and its choice by the equations, in double.
namespace nsa::kernels {

inline constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

/// Settings of one call; the rest comes from the case.
struct TopkOptions {
  int num_selected_blocks = 6;
  int num_initial_blocks = 1;
  int num_local_blocks = 2;
  int64_t window_size = 0;
  int64_t max_page_distance = -1;
  int64_t decay_page_distance = -1;
  BlockScore block_score = BlockScore::kOverlapSum;
  GroupReduction group_reduction = GroupReduction::kSum;
  int lse_windows = 1;
  bool given_lse = false;
  bool given_scores = false;
  bool n_per_row = false;
};

inline std::vector<TopkOptions> AllOptions(const AttentionCase& c) {
  if (c.num_clusters > 0) {  // of full pages, so beside a window that selection never reads
    return {{.num_selected_blocks = 3, .window_size = 64},
            {.num_selected_blocks = 5,
             .window_size = 128,
             .max_page_distance = 3,
             .decay_page_distance = 5,
             .n_per_row = true},
            {.num_selected_blocks = 4,
             .num_initial_blocks = 0,
             .window_size = 192,
             .group_reduction = GroupReduction::kMean}};
  }
  std::vector<TopkOptions> options = {
      {},
      {.num_selected_blocks = 3,
       .num_initial_blocks = 0,
       .num_local_blocks = 1,
       .group_reduction = GroupReduction::kMean,
       .given_lse = true},
      {.num_selected_blocks = 7, .given_lse = true, .given_scores = true, .n_per_row = true},
      {.num_selected_blocks = 5, .window_size = 128, .max_page_distance = 3, .n_per_row = true},
      {.num_selected_blocks = 4, .decay_page_distance = 2},
      {.num_selected_blocks = 9,
       .window_size = 256,
       .max_page_distance = 31,
       .block_score = BlockScore::kOverlapMax,
       .given_lse = true},
      {.num_selected_blocks = 1,
       .num_initial_blocks = 0,
       .num_local_blocks = 0,
       .block_score = BlockScore::kOverlapMax},
      {.num_selected_blocks = 5,
       .num_local_blocks = 3,
       .block_score = BlockScore::kOverlapMax,
       .lse_windows = 4},
      {.num_selected_blocks = 2, .num_local_blocks = 1, .lse_windows = 3},
  };
  // Absolute keys know no limit of distances.
  std::erase_if(options,
                [&c](const TopkOptions& o) { return c.absolute_rows && o.max_page_distance >= 0; });
  return options;
}

inline ScoreTopkParams Params(const AttentionCase& c, const AttentionQuery& query,
                              const TopkOptions& options) {
  ScoreTopkParams params;
  params.query = query;
  params.length = c.length;
  params.stride = c.stride;
  params.num_clusters = c.num_clusters;
  // Selection in the disjoint mode is by pages wherever distances are limited.
  params.sel_block_size = c.sel_block_size;
  params.max_page_distance = options.max_page_distance;
  params.decay_page_distance = options.decay_page_distance;
  params.block_score = options.block_score;
  params.group_reduction = options.group_reduction;
  params.lse_windows = options.lse_windows;
  params.num_selected_blocks = options.num_selected_blocks;
  params.num_initial_blocks = options.num_initial_blocks;
  params.num_local_blocks = options.num_local_blocks;
  params.window_size = options.window_size;
  return params;
}

/// n of each row, where it is per row.
inline std::vector<int32_t> RowN(const AttentionWorld& world, const TopkOptions& options) {
  std::vector<int32_t> n(world.num_rows());
  for (size_t i = 0; i < n.size(); ++i) {
    n[i] = static_cast<int32_t>(i * 7 % options.num_selected_blocks) + 1;
  }
  return n;
}

inline AttentionOp TopkOp(const AttentionWorld& world, const TopkOptions& options) {
  const AttentionCase& c = world.test_case();
  const std::vector<int32_t> row_n = RowN(world, options);
  const int64_t num_pages = world.num_pages();
  const int64_t num_rows = world.num_rows();
  return [=](Backend& backend, const AttentionQuery& query, AttentionResult& result) {
    ScoreTopkParams params = Params(c, query, options);
    if (options.n_per_row) params.row_num_selected_blocks = row_n.data();
    if (options.given_lse) {
      CmpAttnParams cmp;
      cmp.query = query;
      cmp.length = c.length;
      cmp.stride = c.stride;
      cmp.max_page_distance = options.max_page_distance;
      cmp.result.lse = result.lse.data();
      if (options.given_scores) {
        cmp.scores.stride = CmpScoreStride(num_pages, c.stride);
        result.cmp_scores.assign(num_rows * query.num_q_heads * cmp.scores.stride, kNan);
        cmp.scores.data = result.cmp_scores.data();
        params.cmp_scores = cmp.scores;
      }
      backend.CmpAttn(cmp);
      params.cmp_lse = result.lse.data();
    }
    params.selected = result.selected.data();
    params.num_selected = result.num_selected.data();
    backend.ScoreTopk(params);
  };
}

/// The clusters of all candidates.
inline std::vector<reference::VisibleRow> ClusterRows(const AttentionSegment& segment,
                                                      int64_t position, int64_t num_candidates,
                                                      int num_clusters,
                                                      const TopkOptions& options) {
  std::vector<reference::VisibleRow> rows;
  for (int64_t i = 0; i < num_candidates * num_clusters; ++i) {
    const int64_t page = i / num_clusters;
    int64_t distance = position / kPageSize - page;
    if (options.max_page_distance >= 0) distance = std::min(distance, options.max_page_distance);
    rows.push_back({segment.page_table[page], static_cast<int>(i % num_clusters), distance});
  }
  return rows;
}

/// Block scores less what distance takes.
inline std::vector<double> Decayed(const AttentionCase& c, const TopkOptions& options,
                                   int64_t position, std::vector<double> scores) {
  for (size_t block = 0; options.decay_page_distance > 0 && block < scores.size(); ++block) {
    const auto page = static_cast<int64_t>(block) * c.sel_block_size / kPageSize;
    const int64_t distance = std::max(position / kPageSize - page, options.decay_page_distance);
    scores[block] *= static_cast<double>(options.decay_page_distance) / distance;
  }
  return scores;
}

/// What probabilities are divided by: the sum over all windows, or over those that are
/// `lse_windows` times as long and as far apart, whose means are means of whole windows.
inline double ExponentialSum(const AttentionCase& c, const TopkOptions& options,
                             const std::vector<float>& scores) {
  double sum = 0;
  const int f = options.lse_windows;
  const auto num_windows = static_cast<int64_t>(scores.size());
  for (int64_t first = 0; f > 1 && first < num_windows; first += f) {
    // The last of its windows begins f − 1 lengths later.
    if (first + (f - 1) * (c.length / c.stride) >= num_windows) break;
    double mean = 0;
    for (int i = 0; i < f; ++i)
      mean += scores[first + i * (c.length / c.stride)] / static_cast<double>(f);
    sum += std::exp(mean);
  }
  if (sum > 0) return sum;
  for (const float s : scores) sum += std::exp(static_cast<double>(s));
  return sum;
}

/// Scores of one (row, KV head)'s blocks, in double, written down from Eq. 8 to 10 anew.
inline std::vector<double> OracleScores(const AttentionWorld& world, const TopkOptions& options,
                                        const AttentionSegment& segment, int64_t row,
                                        int64_t position, int kv_head, int64_t num_candidates) {
  const AttentionCase& c = world.test_case();
  const AttentionQuery query = world.Query(world.segments());
  const auto visible = c.num_clusters > 0
                           ? ClusterRows(segment, position, num_candidates, c.num_clusters, options)
                           : reference::VisibleWindows(query.kv, segment, position, c.length,
                                                       c.stride, options.max_page_distance);
  const reference::PagedRows rows = reference::CmpRows(query.kv, kPageSize / c.CmpRowsPerPage());
  std::vector<double> p(visible.size(), 0.0);
  for (int head = kv_head * c.group; head < (kv_head + 1) * c.group; ++head) {
    auto scores =
        reference::Scores(query, rows, kv_head, reference::LoadQuery(query, row, head, position),
                          visible, options.max_page_distance);
    for (size_t i = 0; c.num_clusters > 0 && i < scores.size(); ++i) {
      scores[i] += reference::LoadElement(
          DType::kF32, rows.Head(visible[i].page, kv_head) + query.kv.cmp_bias_offset,
          visible[i].row);
    }
    const double sum = ExponentialSum(c, options, scores);
    for (size_t i = 0; i < p.size(); ++i) p[i] += std::exp(static_cast<double>(scores[i])) / sum;
  }
  std::vector<double> block_scores(num_candidates, 0.0);
  for (size_t i = 0; c.num_clusters > 0 && i < p.size(); ++i) {
    block_scores[i / static_cast<size_t>(c.num_clusters)] += p[i];
  }
  if (c.num_clusters > 0) return Decayed(c, options, position, block_scores);
  for (int64_t token = 0; token < num_candidates * c.sel_block_size; token += c.stride) {
    // Each stride of a block gets the mass of each window that covers it.
    for (int64_t i = 0; i < static_cast<int64_t>(p.size()); ++i) {
      if (i * c.stride > token || i * c.stride + c.length <= token) continue;
      double& score = block_scores[token / c.sel_block_size];
      score = options.block_score == BlockScore::kOverlapSum ? score + p[i] : std::max(score, p[i]);
    }
  }
  return Decayed(c, options, position, block_scores);
}

/// Checks one list against the oracle: forced blocks are in, no better block is out.
inline void ExpectBestBlocks(const std::vector<int32_t>& list, int64_t num_candidates, int n,
                             const std::set<int32_t>& forced, const std::vector<double>& scores) {
  const std::set<int32_t> chosen(list.begin(), list.end());
  ASSERT_TRUE(std::is_sorted(list.begin(), list.end()));
  ASSERT_EQ(chosen.size(), list.size());
  ASSERT_EQ(static_cast<int64_t>(list.size()), std::min<int64_t>(n, num_candidates));
  double worst_in = std::numeric_limits<double>::infinity();
  double best_out = -1;
  for (int32_t block = 0; block < num_candidates; ++block) {
    if (forced.contains(block)) {
      ASSERT_TRUE(chosen.contains(block) || static_cast<int>(forced.size()) > n) << block;
    } else if (chosen.contains(block)) {
      worst_in = std::min(worst_in, scores[block]);
    } else {
      best_out = std::max(best_out, scores[block]);
    }
  }
  ASSERT_GE(worst_in, best_out - 1e-5);
}

inline void ExpectOracle(const AttentionWorld& world, const TopkOptions& options,
                         const AttentionResult& result) {
  const AttentionCase& c = world.test_case();
  const std::vector<int32_t> row_n = RowN(world, options);
  for (const AttentionSegment& segment : world.segments()) {
    for (int32_t i = 0; i < segment.num_rows; ++i) {
      const int64_t t = segment.position + i;
      const int64_t row = segment.row_begin + i;
      const int64_t num_candidates =
          options.window_size > 0
              ? PageAlignedWindowStart(t, options.window_size) / c.sel_block_size
              : t / c.sel_block_size + 1;
      const int n = options.n_per_row ? row_n[row] : options.num_selected_blocks;
      std::set<int32_t> forced;
      for (int b = 0; b < std::min<int64_t>(options.num_initial_blocks, num_candidates); ++b) {
        forced.insert(b);
      }
      for (int64_t b = std::max<int64_t>(0, num_candidates - options.num_local_blocks);
           options.window_size == 0 && b < num_candidates; ++b) {
        forced.insert(static_cast<int32_t>(b));
      }
      for (int head = 0; head < c.num_kv_heads; ++head) {
        const int64_t index = row * c.num_kv_heads + head;
        const auto begin = result.selected.begin() + index * options.num_selected_blocks;
        const auto end = begin + result.num_selected[index];
        ASSERT_TRUE(std::all_of(end, begin + options.num_selected_blocks,
                                [](int32_t b) { return b == -1; }));
        ASSERT_NO_FATAL_FAILURE(
            ExpectBestBlocks({begin, end}, num_candidates, n, forced,
                             OracleScores(world, options, segment, row, t, head, num_candidates)))
            << "position " << t << " head " << head;
      }
    }
  }
}

}  // namespace nsa::kernels

#endif  // NSA_TESTS_KERNELS_SCORE_TOPK_ORACLE_H_
