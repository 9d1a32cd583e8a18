#include "kernels/ops/score_topk.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "kernels/ops/cmp_pool.h"
#include "kernels/reference/paged_attention.h"
#include "kernels/reference/reference.h"

namespace nsa::kernels::reference {
namespace {

/// Number of sel_blocks that the query at `position` may choose from.
int64_t NumCandidates(const ScoreTopkParams& params, int64_t position) {
  if (params.window_size > 0) {
    return PageAlignedWindowStart(position, params.window_size) / params.sel_block_size;
  }
  return position / params.sel_block_size + 1;
}

/// The log-sum-exp over windows `lse_windows` times as long, each the mean of that many windows
/// that lie end to end.
float CoarseLogSumExp(const ScoreTopkParams& params, const std::vector<float>& scores,
                      int64_t position) {
  const int factor = params.lse_windows, step = params.length / params.stride;
  const int64_t num_coarse =
      NumVisibleWindows(position, factor * params.length, factor * params.stride);
  if (num_coarse == 0) return LogSumExp(scores);
  std::vector<float> coarse(num_coarse, 0.0f);
  for (int64_t j = 0; j < num_coarse; ++j) {
    for (int i = 0; i < factor; ++i) coarse[j] += scores[j * factor + int64_t{i} * step];
    coarse[j] /= static_cast<float>(factor);
  }
  return LogSumExp(coarse);
}

/// p over the scored rows, summed over the query heads of `kv_head` (Eq. 8 and 10).
std::vector<float> GroupProbabilities(const ScoreTopkParams& params,
                                      const AttentionSegment& segment, int64_t row,
                                      int64_t position, int kv_head) {
  const AttentionQuery& query = params.query;
  const int group = query.num_q_heads / query.kv.num_kv_heads;
  const PagedRows rows = CmpRows(query.kv, params.stride);
  std::vector<VisibleRow> visible = VisibleWindows(query.kv, segment, position, params.length,
                                                   params.stride, params.max_page_distance);
  // Clusters compete with those of candidates alone.
  if (params.num_clusters > 0) {
    visible.resize(NumCandidates(params, position) * params.num_clusters);
  }
  std::vector<float> probabilities(visible.size(), 0.0f);
  for (int head = kv_head * group; head < (kv_head + 1) * group; ++head) {
    const std::vector<float> q = LoadQuery(query, row, head, position);
    std::vector<float> scores = Scores(query, rows, kv_head, q, visible, params.max_page_distance);
    for (size_t i = 0; params.num_clusters > 0 && i < scores.size(); ++i) {
      const std::byte* biases = rows.Head(visible[i].page, kv_head) + query.kv.cmp_bias_offset;
      scores[i] += LoadElement(DType::kF32, biases, visible[i].row);
    }
    float lse = 0;
    if (params.cmp_lse != nullptr) {
      lse = params.cmp_lse[row * query.num_q_heads + head];
    } else {
      lse = params.lse_windows > 1 ? CoarseLogSumExp(params, scores, position) : LogSumExp(scores);
    }
    for (size_t i = 0; i < scores.size(); ++i) probabilities[i] += std::exp(scores[i] - lse);
  }
  if (params.group_reduction == GroupReduction::kMean) {
    for (float& p : probabilities) p /= static_cast<float>(group);
  }
  return probabilities;
}

/// Score of sel_block `block` from the windows that overlap it (Eq. 9); 0 where none is visible.
float ScoreBlock(const ScoreTopkParams& params, const std::vector<float>& probabilities,
                 int64_t block) {
  const int64_t begin = block * params.sel_block_size;
  const int64_t end = begin + params.sel_block_size;
  float score = 0;
  const int64_t first_window = std::max<int64_t>(0, begin - params.length) / params.stride;
  const int64_t num_windows = static_cast<int64_t>(probabilities.size());
  for (int64_t window = first_window; window < std::min(num_windows, end / params.stride);
       ++window) {
    const int64_t first = window * params.stride;
    const int64_t overlap = std::min(first + params.length, end) - std::max(first, begin);
    if (overlap <= 0) continue;
    const float p = probabilities[window];
    if (params.block_score == BlockScore::kOverlapSum) {
      const int64_t strides = overlap / params.stride;
      score += static_cast<float>(strides) * p;
    } else {
      score = std::isnan(p) || p > score ? p : score;
    }
  }
  return score;
}

/// What distance leaves of a block's score.
float Decay(const ScoreTopkParams& params, int64_t position, int64_t block) {
  const int64_t distance = position / kPageSize - block * params.sel_block_size / kPageSize;
  if (params.decay_page_distance < 0 || distance <= params.decay_page_distance) return 1;
  return static_cast<float>(params.decay_page_distance) / static_cast<float>(distance);
}

bool IsForced(const ScoreTopkParams& params, int64_t block, int64_t num_candidates) {
  return block < params.num_initial_blocks ||
         (params.window_size == 0 && block >= num_candidates - params.num_local_blocks);
}

/// The best n of the candidates in rising order.
std::vector<int32_t> ChooseBlocks(const ScoreTopkParams& params,
                                  const std::vector<float>& probabilities, int64_t position,
                                  int64_t num_candidates, int n) {
  std::vector<int32_t> blocks;
  std::vector<float> scores(num_candidates);
  for (int64_t block = 0; block < num_candidates; ++block) {
    scores[block] = IsForced(params, block, num_candidates)
                        ? std::numeric_limits<float>::infinity()
                        : ScoreBlock(params, probabilities, block) * Decay(params, position, block);
    if (!std::isnan(scores[block])) blocks.push_back(static_cast<int32_t>(block));
  }
  std::stable_sort(blocks.begin(), blocks.end(),
                   [&](int32_t a, int32_t b) { return scores[a] > scores[b]; });
  if (blocks.size() > static_cast<size_t>(n)) blocks.resize(n);
  std::sort(blocks.begin(), blocks.end());
  return blocks;
}

}  // namespace

void ScoreTopk(const ScoreTopkParams& given) {
  const ScoreTopkParams params = WithClustersAsWindows(given);
  const int num_kv_heads = params.query.kv.num_kv_heads;
  ForEachRow(params.query.segments, params.query.num_segments,
             [&](const AttentionSegment& segment, int64_t row, int64_t position) {
               const int64_t num_candidates = NumCandidates(params, position);
               const int n = params.row_num_selected_blocks != nullptr
                                 ? params.row_num_selected_blocks[row]
                                 : params.num_selected_blocks;
               for (int head = 0; head < num_kv_heads; ++head) {
                 std::vector<int32_t> blocks(std::min<int64_t>(num_candidates, n));
                 if (num_candidates <= n) {
                   std::iota(blocks.begin(), blocks.end(), 0);
                 } else {
                   blocks = ChooseBlocks(params,
                                         GroupProbabilities(params, segment, row, position, head),
                                         position, num_candidates, n);
                 }
                 const int64_t index = row * num_kv_heads + head;
                 int32_t* selected = params.selected + index * params.num_selected_blocks;
                 std::fill_n(selected, params.num_selected_blocks, -1);
                 std::copy(blocks.begin(), blocks.end(), selected);
                 params.num_selected[index] = static_cast<int32_t>(blocks.size());
               }
             });
}

}  // namespace nsa::kernels::reference
