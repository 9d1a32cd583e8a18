#include "kernels/check.h"
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/split_attention.h"

namespace nsa::kernels::cuda {

void CmpAttn(Stream& stream, const CmpAttnParams& params, const SegmentsShape& shape,
             const Workspace& workspace) {
  const PagedKv& kv = params.query.kv;
  NSA_CHECK(kv.cmp_bias_offset < 0 && kv.cmp_dtype != DType::kInt8);  // windows, not clusters
  LaunchSplitAttention(stream, "cmp_attn",
                       {.query = params.query,
                        .reads = Reads::kCompressed,
                        .max_page_distance = params.max_page_distance,
                        .length = params.length,
                        .stride = params.stride,
                        .scores = params.scores,
                        .result = params.result},
                       shape, workspace);
}

}  // namespace nsa::kernels::cuda
