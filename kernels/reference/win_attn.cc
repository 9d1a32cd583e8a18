#include "kernels/ops/win_attn.h"

#include <algorithm>
#include <vector>

#include "kernels/reference/paged_attention.h"
#include "kernels/reference/reference.h"

namespace nsa::kernels::reference {

void WinAttn(const WinAttnParams& params) {
  const AttentionQuery& query = params.query;
  ForEachRow(query.segments, query.num_segments,
             [&](const AttentionSegment& segment, int64_t row, int64_t position) {
               const int64_t begin = params.page_aligned
                                         ? PageAlignedWindowStart(position, params.window_size)
                                         : std::max<int64_t>(0, position + 1 - params.window_size);
               const std::vector<VisibleRow> visible =
                   TokenRange(segment, position, begin, position + 1);
               for (int head = 0; head < query.num_q_heads; ++head) {
                 Attend(query, TokenRows(query.kv), row, head, position, visible, params.result);
               }
             });
}

}  // namespace nsa::kernels::reference
