#include "kernels/ops/page_ages.h"

#include <cstdint>

#include "kernels/cpu/cpu.h"

namespace nsa::kernels::cpu {

// On one thread: a few hundred numbers a row, against thousands of tokens that its attention reads.
void PageAges(Context&, const PageAgesParams& params) {
  for (int s = 0; s < params.num_segments; ++s) {
    const AttentionSegment& segment = params.segments[s];
    for (int32_t i = 0; i < segment.num_rows; ++i) {
      const int64_t first = (int64_t{segment.row_begin} + i) * params.num_kv_heads;
      for (int64_t list = first; list < first + params.num_kv_heads; ++list) {
        const int32_t* blocks = params.selected + list * params.num_selected_blocks;
        for (int32_t b = 0; b < params.num_selected[list]; ++b) {
          ++params.ages[BlockAge(segment.position + i, blocks[b], params.sel_block_size)];
        }
      }
    }
  }
}

}  // namespace nsa::kernels::cpu
