#include "kernels/ops/cmp_attn.h"

#include <vector>

#include "kernels/reference/paged_attention.h"
#include "kernels/reference/reference.h"

namespace nsa::kernels::reference {

void CmpAttn(const CmpAttnParams& params) {
  const AttentionQuery& query = params.query;
  const PagedRows rows = CmpRows(query.kv, params.stride);
  ForEachRow(query.segments, query.num_segments,
             [&](const AttentionSegment& segment, int64_t row, int64_t position) {
               const std::vector<VisibleRow> visible = VisibleWindows(
                   segment, position, params.length, params.stride, params.max_page_distance);
               for (int head = 0; head < query.num_q_heads; ++head) {
                 Attend(query, rows, row, head, position, visible, params.result);
               }
             });
}

}  // namespace nsa::kernels::reference
