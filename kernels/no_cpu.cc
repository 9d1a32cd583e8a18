// What a build without Highway (NSA_BUILD_CPU=OFF) has in the place of kernels/cpu.

#include "kernels/backend.h"
#include "kernels/grad/device.h"

namespace nsa::kernels {

std::unique_ptr<Backend> MakeCpuBackend(int) { return MakeReferenceBackend(); }

namespace grad {

OpenedDevice OpenCpu(int) {
  return {.device = nullptr, .error = "this build has no CPU kernels for training"};
}

}  // namespace grad
}  // namespace nsa::kernels
