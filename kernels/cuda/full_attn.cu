#include "kernels/cuda/cuda.h"
#include "kernels/cuda/split_attention.h"

namespace nsa::kernels::cuda {

void FullAttn(Stream& stream, const FullAttnParams& params, const SegmentsShape& shape,
              const Workspace& workspace) {
  LaunchSplitAttention(stream, "full_attn", {.query = params.query, .result = params.result}, shape,
                       workspace);
}

}  // namespace nsa::kernels::cuda
