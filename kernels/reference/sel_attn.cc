#include "kernels/ops/sel_attn.h"

#include <algorithm>
#include <vector>

#include "kernels/check.h"
#include "kernels/reference/paged_attention.h"
#include "kernels/reference/reference.h"

namespace nsa::kernels::reference {
namespace {

/// Tokens of the selected sel_blocks in rising order, none after the query and none in the window;
/// then those of the window where it is read too.
std::vector<VisibleRow> SelectedTokens(const SelAttnParams& params, const AttentionSegment& segment,
                                       int64_t position, const int32_t* selected,
                                       int32_t num_selected) {
  const int64_t window_start = PageAlignedWindowStart(position, params.window_size);
  const int64_t limit = params.window_size > 0 ? window_start : position + 1;
  std::vector<VisibleRow> visible;
  for (int32_t i = 0; i < num_selected; ++i) {
    const int64_t begin = int64_t{selected[i]} * params.sel_block_size;
    std::vector<VisibleRow> tokens = TokenRange(
        segment, position, begin, std::min<int64_t>(begin + params.sel_block_size, limit));
    for (VisibleRow& token : tokens) {
      token.page_distance = LimitDistance(token.page_distance, params.max_page_distance);
    }
    visible.insert(visible.end(), tokens.begin(), tokens.end());
  }
  if (params.reads_window) {
    NSA_CHECK(params.window_size > 0);
    const std::vector<VisibleRow> tokens =
        TokenRange(segment, position, window_start, position + 1);
    visible.insert(visible.end(), tokens.begin(), tokens.end());
  }
  return visible;
}

}  // namespace

void SelAttn(const SelAttnParams& params) {
  const AttentionQuery& query = params.query;
  const int num_kv_heads = query.kv.num_kv_heads;
  const int group = query.num_q_heads / num_kv_heads;
  ForEachRow(query.segments, query.num_segments,
             [&](const AttentionSegment& segment, int64_t row, int64_t position) {
               for (int head = 0; head < query.num_q_heads; ++head) {
                 const int64_t index = row * num_kv_heads + head / group;
                 const std::vector<VisibleRow> visible =
                     SelectedTokens(params, segment, position,
                                    params.selected + index * params.num_selected_blocks,
                                    params.num_selected[index]);
                 Attend(query, TokenRows(query.kv), row, head, position, visible, params.result);
               }
             });
}

}  // namespace nsa::kernels::reference
