#include "kernels/check.h"
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/split_attention.h"

namespace nsa::kernels::cuda {

void SelAttn(Stream& stream, const SelAttnParams& params, const SegmentsShape& shape,
             const Workspace& workspace) {
  NSA_CHECK(!params.reads_window || params.window_size > 0);
  LaunchSplitAttention(stream, "sel_attn",
                       {.query = params.query,
                        .reads = Reads::kSelection,
                        .window_size = params.window_size,
                        .max_page_distance = params.max_page_distance,
                        .sel_block_size = params.sel_block_size,
                        .num_selected_blocks = params.num_selected_blocks,
                        .selected = params.selected,
                        .num_selected = params.num_selected,
                        .reads_window = params.reads_window,
                        .result = params.result},
                       shape, workspace);
}

}  // namespace nsa::kernels::cuda
