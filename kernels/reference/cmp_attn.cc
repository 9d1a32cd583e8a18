#include "kernels/ops/cmp_attn.h"

#include <algorithm>
#include <vector>

#include "kernels/reference/paged_attention.h"
#include "kernels/reference/reference.h"

namespace nsa::kernels::reference {

namespace {

/// Leaves one query's scores for score_topk, which counts windows as the cache does.
void KeepScores(const CmpAttnParams& params, const PagedRows& rows, int64_t row, int head,
                int64_t position, const std::vector<VisibleRow>& visible) {
  if (params.scores.data == nullptr) return;
  const AttentionQuery& query = params.query;
  const int group = query.num_q_heads / query.kv.num_kv_heads;
  const std::vector<float> scores =
      Scores(query, rows, head / group, LoadQuery(query, row, head, position), visible);
  float* kept = params.scores.data + (row * query.num_q_heads + head) * params.scores.stride;
  std::copy(scores.begin(), scores.end(), kept + params.length / params.stride - 1);
}

}  // namespace

void CmpAttn(const CmpAttnParams& params) {
  const AttentionQuery& query = params.query;
  const PagedRows rows = CmpRows(query.kv, params.stride);
  ForEachRow(query.segments, query.num_segments,
             [&](const AttentionSegment& segment, int64_t row, int64_t position) {
               const std::vector<VisibleRow> visible =
                   VisibleWindows(query.kv, segment, position, params.length, params.stride,
                                  params.max_page_distance);
               for (int head = 0; head < query.num_q_heads; ++head) {
                 KeepScores(params, rows, row, head, position, visible);
                 Attend(query, rows, row, head, position, visible, params.result);
               }
             });
}

}  // namespace nsa::kernels::reference
