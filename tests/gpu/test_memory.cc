#include "tests/gpu/test_memory.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <new>
#include <utility>

namespace nsa::gpu {
namespace {

enum class Kind : uint32_t { kHost = 0x6E736131, kPooled, kExact };

/// Before each buffer. Behind it come bytes 0xFF up to the buffer.
struct Header {
  Kind kind;
  uint32_t size_class;  // of kPooled: the block has 2^size_class bytes
  uint64_t num_bytes;   // of the buffer
  Header* next;         // in its free list
};

// Multiples of 16, as malloc's are, and of no more: what needs more must not find it by chance.
constexpr size_t kBefore = 80;
constexpr size_t kBehind = 64;
constexpr uint32_t kSmallestClass = 8;
constexpr size_t kChunkBytes = size_t{64} << 20;
// Smaller buffers are mostly the host's own; each allocation of CUDA's takes pages.
constexpr size_t kLeastExact = 256;
constexpr int kGuard = 0xFF;

bool IsUntouched(const std::byte* begin, size_t count) {
  return std::all_of(begin, begin + count, [](std::byte b) { return b == std::byte{kGuard}; });
}

class Pool {
 public:
  void Start(bool is_exact) {
    is_exact_ = is_exact;
    is_started_ = true;
  }
  bool is_started() const { return is_started_; }

  std::byte* Take(size_t num_bytes) {
    if (is_exact_ && num_bytes >= kLeastExact) return TakeExact(num_bytes);
    const std::lock_guard lock(mutex_);
    const auto size_class = std::max<uint32_t>(
        kSmallestClass, static_cast<uint32_t>(std::bit_width(kBefore + num_bytes + kBehind - 1)));
    Header* block = free_[size_class];
    if (block != nullptr) {
      free_[size_class] = block->next;
    } else {
      block = reinterpret_cast<Header*>(Carve(size_t{1} << size_class));
    }
    return FillIn(block, {Kind::kPooled, size_class, num_bytes, nullptr}, kBehind);
  }

  void GiveBack(Header* block) {
    auto* begin = reinterpret_cast<std::byte*>(block);
    const bool is_exact = block->kind == Kind::kExact;
    const bool is_sound = IsUntouched(begin + sizeof(Header), kBefore - sizeof(Header)) &&
                          (is_exact || IsUntouched(begin + kBefore + block->num_bytes, kBehind));
    if (!is_sound) {
      std::fprintf(stderr, "a kernel wrote before or behind a buffer of %llu bytes\n",
                   static_cast<unsigned long long>(block->num_bytes));
      std::abort();
    }
    if (is_exact) {
      Check(cudaFreeHost(block));
      return;
    }
    const std::lock_guard lock(mutex_);
    block->next = free_[block->size_class];
    free_[block->size_class] = block;
  }

  /// Header and guards of a block that is not pinned memory have no guards to check.
  static std::byte* FillIn(void* block, const Header& header, size_t behind) {
    auto* begin = static_cast<std::byte*>(block);
    std::memset(begin, kGuard, kBefore);
    std::memcpy(begin, &header, sizeof(header));
    std::memset(begin + kBefore + header.num_bytes, kGuard, behind);
    return begin + kBefore;
  }

 private:
  static void Check(cudaError_t error) {
    // The latter: of a static object, which ends after CUDA.
    if (error == cudaSuccess || error == cudaErrorCudartUnloading) return;
    std::fprintf(stderr, "pinned memory: %s\n", cudaGetErrorString(error));
    std::abort();
  }

  static void* Pinned(size_t num_bytes) {
    void* memory = nullptr;
    Check(cudaHostAlloc(&memory, num_bytes, cudaHostAllocMapped | cudaHostAllocPortable));
    return memory;
  }

  static std::byte* TakeExact(size_t num_bytes) {
    return FillIn(Pinned(kBefore + num_bytes), {Kind::kExact, 0, num_bytes, nullptr}, 0);
  }

  std::byte* Carve(size_t num_bytes) {
    if (num_bytes > kChunkBytes / 2) return static_cast<std::byte*>(Pinned(num_bytes));
    if (left_ < num_bytes) {
      next_ = static_cast<std::byte*>(Pinned(kChunkBytes));
      left_ = kChunkBytes;
    }
    left_ -= num_bytes;
    return std::exchange(next_, next_ + num_bytes);
  }

  std::mutex mutex_;
  std::atomic<bool> is_started_ = false;
  bool is_exact_ = false;
  Header* free_[64] = {};
  std::byte* next_ = nullptr;
  size_t left_ = 0;
};

// Never destroyed: static objects give memory back after main.
constinit Pool g_pool;
// CUDA's own use of operator new, inside of ours.
thread_local bool t_is_inside = false;

void* Allocate(size_t num_bytes) {
  if (g_pool.is_started() && !t_is_inside) {
    t_is_inside = true;
    void* buffer = g_pool.Take(num_bytes);
    t_is_inside = false;
    return buffer;
  }
  void* block = std::malloc(kBefore + num_bytes);
  if (block == nullptr) throw std::bad_alloc();
  return Pool::FillIn(block, {Kind::kHost, 0, num_bytes, nullptr}, 0);
}

Header* HeaderOf(void* buffer) {
  return reinterpret_cast<Header*>(static_cast<std::byte*>(buffer) - kBefore);
}

void Free(void* buffer) {
  if (buffer == nullptr) return;
  Header* block = HeaderOf(buffer);
  if (block->kind == Kind::kHost) return std::free(block);
  const bool was_inside = std::exchange(t_is_inside, true);
  g_pool.GiveBack(block);
  t_is_inside = was_inside;
}

}  // namespace

bool UseDeviceMemory() {
  // Read when CUDA starts. Tests read results as soon as an operator returns.
  setenv("CUDA_LAUNCH_BLOCKING", "1", 1);
  int num_devices = 0;
  if (cudaGetDeviceCount(&num_devices) != cudaSuccess || num_devices == 0) return false;
  const char* exact = std::getenv("NSA_GPU_EXACT_BUFFERS");
  g_pool.Start(exact != nullptr && exact[0] == '1');
  return true;
}

}  // namespace nsa::gpu

void* operator new(size_t num_bytes) { return nsa::gpu::Allocate(num_bytes); }
void operator delete(void* buffer) noexcept { nsa::gpu::Free(buffer); }
void operator delete(void* buffer, size_t) noexcept { nsa::gpu::Free(buffer); }
