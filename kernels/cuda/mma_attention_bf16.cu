#include "kernels/cuda/mma_attention_kernel.h"
#include "kernels/cuda/mma_attention_types.h"

namespace nsa::kernels::cuda {

void LaunchMmaBf16(Stream& stream, const char* name, const SplitAttention& attention,
                   const TileShape& shape) {
  LaunchType<Bf16>(stream, name, attention, shape);
}

}  // namespace nsa::kernels::cuda
