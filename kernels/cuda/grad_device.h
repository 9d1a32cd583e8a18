#ifndef NSA_KERNELS_CUDA_GRAD_DEVICE_H_
#define NSA_KERNELS_CUDA_GRAD_DEVICE_H_

#include <cstdint>

#include "kernels/grad/device.h"

namespace nsa::kernels::cuda {

/// What tests make smaller, so that small calls are cut as well.
struct GradLimits {
  int64_t item_lines = 65536;                // heads of queries that one CTA adds to a key tile
  int64_t choice_bytes = int64_t{64} << 20;  // of probabilities that wait for the choice of blocks
};

/// As grad::OpenCuda.
grad::OpenedDevice OpenGradDevice(const GradLimits& limits);

}  // namespace nsa::kernels::cuda

#endif  // NSA_KERNELS_CUDA_GRAD_DEVICE_H_
