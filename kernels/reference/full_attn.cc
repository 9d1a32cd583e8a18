#include "kernels/ops/full_attn.h"

#include <vector>

#include "kernels/reference/paged_attention.h"
#include "kernels/reference/reference.h"

namespace nsa::kernels::reference {

void FullAttn(const FullAttnParams& params) {
  const AttentionQuery& query = params.query;
  ForEachRow(query.segments, query.num_segments,
             [&](const AttentionSegment& segment, int64_t row, int64_t position) {
               const std::vector<VisibleRow> visible =
                   TokenRange(segment, position, 0, position + 1);
               for (int head = 0; head < query.num_q_heads; ++head) {
                 Attend(query, TokenRows(query.kv), row, head, position, visible, params.result);
               }
             });
}

}  // namespace nsa::kernels::reference
