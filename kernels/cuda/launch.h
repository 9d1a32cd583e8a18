#ifndef NSA_KERNELS_CUDA_LAUNCH_H_
#define NSA_KERNELS_CUDA_LAUNCH_H_

#include <cstdint>
#include <cstdio>
#include <cstdlib>

#include "kernels/check.h"
#include "kernels/cuda/device.h"

namespace nsa::kernels::cuda {

#ifdef __CUDACC__

/// Ends the process: a launch that CUDA refuses is our bug. Errors of a kernel's run come later,
/// to whoever waits for the stream.
inline void CheckCuda(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "CUDA: %s: %s\n", what, cudaGetErrorString(error));
  std::abort();
}

/// Enqueues kernel(args) on the stream. On the emulator it has run when this returns.
template <typename Args>
void Launch(Stream& stream, const LaunchShape& shape, void (*kernel)(Args), const Args& args) {
  if (shape.grid_x == 0 || shape.grid_y == 0) return;
  NSA_CHECK(shape.grid_x <= INT32_MAX && shape.grid_y <= UINT16_MAX);
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(shape.grid_x), static_cast<unsigned>(shape.grid_y));
  config.blockDim = dim3(static_cast<unsigned>(shape.num_threads));
  config.dynamicSmemBytes = static_cast<size_t>(shape.shared_bytes);
  config.stream = static_cast<cudaStream_t>(stream.handle);
  // CUDA C++ Programming Guide: above 48 KiB a kernel has to ask for its shared memory. Its static
  // arrays count, too, which are not known here; none has more than 24 KiB.
  if (shape.shared_bytes > 24 * 1024) {
    CheckCuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                   static_cast<int>(shape.shared_bytes)),
              shape.name);
  }
  CheckCuda(cudaLaunchKernelEx(&config, kernel, args), shape.name);
}

#else

template <typename Args>
void Launch(Stream&, const LaunchShape& shape, void (*kernel)(Args), const Args& args) {
  RunOnHost(shape, [&] { kernel(args); });
}

#endif

}  // namespace nsa::kernels::cuda

#endif  // NSA_KERNELS_CUDA_LAUNCH_H_
