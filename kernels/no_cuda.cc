#include "kernels/backend.h"

// Stands in for kernels/cuda where that is not built.
namespace nsa::kernels {

CudaDevice OpenCudaDevice() {
  return {.backend = nullptr, .error = "this build has no CUDA backend; use cpu"};
}

}  // namespace nsa::kernels
