// MakeCpuBackend of a build without Highway (NSA_BUILD_CPU=OFF).

#include "kernels/backend.h"

namespace nsa::kernels {

std::unique_ptr<Backend> MakeCpuBackend(int) { return MakeReferenceBackend(); }

}  // namespace nsa::kernels
