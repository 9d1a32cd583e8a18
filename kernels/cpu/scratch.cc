#include <cstdlib>

#include "kernels/check.h"
#include "kernels/cpu/cpu.h"

namespace nsa::kernels::cpu {

Scratch::~Scratch() { std::free(data_); }

void* Scratch::Grow(size_t num_bytes) {
  if (num_bytes > capacity_) {
    std::free(data_);
    // More than is asked for, so that a call that grows a little each time seldom comes here.
    capacity_ = (num_bytes + num_bytes / 4 + 63) / 64 * 64;
    data_ = std::aligned_alloc(64, capacity_);
    NSA_CHECK(data_ != nullptr);
  }
  return data_;
}

}  // namespace nsa::kernels::cpu
