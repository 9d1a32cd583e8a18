#include "kernels/backend.h"
#include "kernels/grad/device.h"

// Stands in for kernels/cuda where that is not built.
namespace nsa::kernels {

CudaDevice OpenCudaDevice() {
  return {.backend = nullptr, .error = "this build has no CUDA backend; use cpu"};
}

namespace grad {

OpenedDevice OpenCuda() {
  return {.device = nullptr, .error = "this build has no CUDA kernels; use the CPU's"};
}

}  // namespace grad
}  // namespace nsa::kernels
