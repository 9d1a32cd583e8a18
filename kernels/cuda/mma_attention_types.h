#ifndef NSA_KERNELS_CUDA_MMA_ATTENTION_TYPES_H_
#define NSA_KERNELS_CUDA_MMA_ATTENTION_TYPES_H_

#include "kernels/cuda/launch.h"
#include "kernels/cuda/mma_tile.h"
#include "kernels/cuda/split_attention.h"

/// LaunchMmaAttention by the cache's type: each has a source of its own.
namespace nsa::kernels::cuda {

void LaunchMmaBf16(Stream& stream, const char* name, const SplitAttention& attention,
                   const TileShape& shape);
void LaunchMmaF16(Stream& stream, const char* name, const SplitAttention& attention,
                  const TileShape& shape);
void LaunchMmaF8E4M3(Stream& stream, const char* name, const SplitAttention& attention,
                     const TileShape& shape);

}  // namespace nsa::kernels::cuda

#endif  // NSA_KERNELS_CUDA_MMA_ATTENTION_TYPES_H_
