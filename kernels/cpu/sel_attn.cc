#include "kernels/ops/sel_attn.h"

#include <algorithm>

#include "kernels/check.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/paged_attention.h"

namespace nsa::kernels::cpu {

void SelAttn(Context& context, const SelAttnParams& params) {
  NSA_CHECK(!params.reads_window || params.window_size > 0);
  const auto pieces_of = [&params](const QueryRow& row, int kv_head) {
    const int64_t index = row.row * params.query.kv.num_kv_heads + kv_head;
    const int64_t window_start = PageAlignedWindowStart(row.position, params.window_size);
    const int32_t num_selected = params.num_selected[index];
    RowPieces pieces;
    if (params.reads_window) pieces = PiecesOfRange(row.position, window_start, row.position + 1);
    pieces.query_page = row.position / kPageSize;
    pieces.num_sel_pieces = int64_t{num_selected} * std::max(1, params.sel_block_size / kPageSize);
    pieces.num_pieces += pieces.num_sel_pieces;
    pieces.sel_end_token = params.window_size > 0 ? window_start : row.position + 1;
    pieces.sel_blocks = params.selected + index * params.num_selected_blocks;
    pieces.sel_block_size = params.sel_block_size;
    if (params.max_page_distance >= 0) pieces.max_page_distance = params.max_page_distance;
    return pieces;
  };
  PagedAttention(context, params.query, pieces_of, params.result);
}

}  // namespace nsa::kernels::cpu
