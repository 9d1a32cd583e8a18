#include "kernels/ops/page_ages.h"

#include "kernels/reference/paged_attention.h"
#include "kernels/reference/reference.h"

namespace nsa::kernels::reference {

void PageAges(const PageAgesParams& params) {
  ForEachRow(params.segments, params.num_segments,
             [&](const AttentionSegment&, int64_t row, int64_t position) {
               for (int head = 0; head < params.num_kv_heads; ++head) {
                 const int64_t list = row * params.num_kv_heads + head;
                 const int32_t* blocks = params.selected + list * params.num_selected_blocks;
                 for (int32_t b = 0; b < params.num_selected[list]; ++b) {
                   ++params.ages[BlockAge(position, blocks[b], params.sel_block_size)];
                 }
               }
             });
}

}  // namespace nsa::kernels::reference
