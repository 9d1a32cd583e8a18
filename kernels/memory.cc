#include "kernels/memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>

namespace nsa::kernels {
namespace {

// Below this a mapping of its own would waste most of its last page.
constexpr int64_t kSmallBytes = int64_t{64} << 10;
constexpr int64_t kAlignment = 64;

int64_t RoundUp(int64_t num_bytes) {
  return (std::max<int64_t>(num_bytes, 1) + kAlignment - 1) / kAlignment * kAlignment;
}

}  // namespace

Memory AllocateHost(int64_t num_bytes) {
  if (num_bytes < kSmallBytes) {
    void* data = std::aligned_alloc(kAlignment, static_cast<size_t>(RoundUp(num_bytes)));
    if (data == nullptr) return {};
    std::memset(data, 0, static_cast<size_t>(num_bytes));
    return {static_cast<std::byte*>(data), num_bytes,
            [](std::byte* memory, int64_t) { std::free(memory); }};
  }
  void* data = mmap(nullptr, static_cast<size_t>(num_bytes), PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (data == MAP_FAILED) return {};
  // Fewer TLB misses when a query jumps between selected pages. Advice only: failure changes
  // nothing.
  (void)madvise(data, static_cast<size_t>(num_bytes), MADV_HUGEPAGE);
  return {static_cast<std::byte*>(data), num_bytes,
          [](std::byte* memory, int64_t size) { munmap(memory, static_cast<size_t>(size)); }};
}

}  // namespace nsa::kernels
