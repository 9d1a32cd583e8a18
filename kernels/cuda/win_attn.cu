#include "kernels/cuda/cuda.h"
#include "kernels/cuda/split_attention.h"

namespace nsa::kernels::cuda {

void WinAttn(Stream& stream, const WinAttnParams& params, const SegmentsShape& shape,
             const Workspace& workspace) {
  LaunchSplitAttention(stream, "win_attn",
                       {.query = params.query,
                        .window_size = params.window_size,
                        .page_aligned = params.page_aligned,
                        .result = params.result},
                       shape, workspace);
}

}  // namespace nsa::kernels::cuda
