#include "kernels/cpu/weight_arena.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "kernels/check.h"

namespace nsa::kernels::cpu {
namespace {

constexpr size_t kLargePage = size_t{2} << 20;
constexpr size_t kChunkBytes = size_t{32} << 20;
constexpr size_t kCacheLine = 64;

constexpr size_t RoundUp(size_t x, size_t unit) { return (x + unit - 1) / unit * unit; }

std::shared_ptr<std::byte> TakeChunk(size_t num_bytes) {
  auto* data = static_cast<std::byte*>(std::aligned_alloc(kLargePage, num_bytes));
  NSA_CHECK(data != nullptr);
  // Advice only: failure changes nothing.
  (void)madvise(data, num_bytes, MADV_HUGEPAGE);
  return {data, [](std::byte* memory) { std::free(memory); }};
}

}  // namespace

std::shared_ptr<std::byte> WeightArena::Allocate(size_t num_bytes) {
  num_bytes = RoundUp(num_bytes, kCacheLine);
  if (chunk_ == nullptr || used_ + num_bytes > chunk_bytes_) {
    chunk_bytes_ = std::max(kChunkBytes, RoundUp(num_bytes, kLargePage));
    chunk_ = TakeChunk(chunk_bytes_);
    used_ = 0;
  }
  std::byte* data = chunk_.get() + used_;
  used_ += num_bytes;
  std::memset(data, 0, num_bytes);
  return {chunk_, data};
}

}  // namespace nsa::kernels::cpu
