#include "kernels/backend.h"

#include <cstring>

namespace nsa::kernels {

Memory Backend::Allocate(int64_t num_bytes) { return AllocateHost(num_bytes); }

void Backend::Write(void* target, const void* source, int64_t num_bytes) {
  std::memcpy(target, source, static_cast<size_t>(num_bytes));
}

void Backend::Read(void* target, const void* source, int64_t num_bytes) {
  std::memcpy(target, source, static_cast<size_t>(num_bytes));
}

StoredMatrix Backend::Store(const WeightMatrix& matrix) { return {.matrix = matrix, .memory = {}}; }

}  // namespace nsa::kernels
