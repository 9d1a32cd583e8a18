#include "kernels/cuda/runtime.h"

#include <sys/mman.h>

#include <memory>
#include <vector>

#include "kernels/check.h"
#include "kernels/cuda/launch_queue.h"
#include "tests/cuda_host/device_memory.h"
#include "tests/cuda_host/emulator.h"
#include "tests/cuda_host/streams.h"

namespace nsa::cuda_host {
namespace {

constexpr int64_t kPageBytes = 4096;
constexpr int64_t kReservedBytes = int64_t{1} << 38;  // of addresses, not of memory

/// All device memory: one range of addresses, given out from its begin and never given twice, so
/// that what is used after its end shows as well.
struct Arena {
  std::byte* begin = nullptr;
  int64_t used = 0;
  int64_t live_bytes = 0;
  int64_t device_bytes = int64_t{2} << 30;
  int64_t pinned_bytes = int64_t{1} << 40;  // that one allocation may take
  int num_accesses = 0;
};

Arena& TheArena() {
  static Arena arena;
  return arena;
}

int64_t RoundUp(int64_t num_bytes) {
  return (num_bytes + kPageBytes - 1) / kPageBytes * kPageBytes;
}

void Protect(int protection) {
  const Arena& arena = TheArena();
  if (arena.used > 0) {
    NSA_CHECK(mprotect(arena.begin, static_cast<size_t>(arena.used), protection) == 0);
  }
}

}  // namespace

DeviceMemoryAccess::DeviceMemoryAccess() {
  if (TheArena().num_accesses++ > 0) return;
  Protect(PROT_READ | PROT_WRITE);
  ProtectCopies();
}
DeviceMemoryAccess::~DeviceMemoryAccess() {
  if (--TheArena().num_accesses == 0) Protect(PROT_NONE);
}

bool IsDeviceMemory(const void* data, int64_t num_bytes) {
  const Arena& arena = TheArena();
  const auto* first = static_cast<const std::byte*>(data);
  return arena.begin != nullptr && first >= arena.begin &&
         first + num_bytes <= arena.begin + arena.used;
}

void SetDeviceBytes(int64_t num_bytes) { TheArena().device_bytes = num_bytes; }
void SetPinnedBytes(int64_t num_bytes) { TheArena().pinned_bytes = num_bytes; }

}  // namespace nsa::cuda_host

namespace nsa::kernels::cuda {

using cuda_host::TheArena;

std::optional<DeviceProperties> OpenDevice(std::string&) {
  return DeviceProperties{.name = "emulator",
                          .major = 9,
                          .num_multiprocessors = 1,
                          .total_bytes = TheArena().device_bytes};
}

int64_t FreeDeviceBytes() { return TheArena().device_bytes - TheArena().live_bytes; }

Memory AllocateDevice(int64_t num_bytes) {
  cuda_host::Arena& arena = TheArena();
  if (num_bytes > FreeDeviceBytes()) return {};
  if (arena.begin == nullptr) {
    void* reserved = mmap(nullptr, cuda_host::kReservedBytes, PROT_NONE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    NSA_CHECK(reserved != MAP_FAILED);
    arena.begin = static_cast<std::byte*>(reserved);
  }
  std::byte* data = arena.begin + arena.used;
  arena.used += cuda_host::RoundUp(num_bytes + 1);
  NSA_CHECK(arena.used <= cuda_host::kReservedBytes);
  arena.live_bytes += num_bytes;
  return {data, num_bytes, [](std::byte* memory, int64_t size) {
            cuda_host::EndAll();
            TheArena().live_bytes -= size;
            // Its addresses stay, its memory goes back.
            (void)madvise(memory, static_cast<size_t>(cuda_host::RoundUp(size + 1)), MADV_DONTNEED);
          }};
}

/// Whole pages, so that copies under way can be watched.
Memory AllocatePinned(int64_t num_bytes) {
  if (num_bytes > TheArena().pinned_bytes) return {};
  const auto size = static_cast<size_t>(cuda_host::RoundUp(num_bytes + 1));
  void* mapped = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) return {};
  auto* data = static_cast<std::byte*>(mapped);
  cuda_host::NotePinned(data, num_bytes);
  return {data, num_bytes, [](std::byte* memory, int64_t bytes) {
            cuda_host::ForgetPinned(memory);
            munmap(memory, static_cast<size_t>(cuda_host::RoundUp(bytes + 1)));
          }};
}

namespace {

/// A node with an argument of its own.
struct OwnedNode {
  explicit OwnedNode(const LaunchNode& from) : node(from) {
    const auto* first = static_cast<const std::byte*>(node.argument);
    argument.assign(first, first + node.argument_bytes);
  }
  void Run() const {
    const cuda_host::DeviceMemoryAccess access;
    cuda_host::RunLaunch(node.shape, [&] { node.run(node.function, argument.data()); });
  }

  LaunchNode node;
  std::vector<std::byte> argument;
};

void Enqueue(Stream& stream, const OwnedNode& node) {
  cuda_host::EnqueueKernel(stream, [node] { node.Run(); });
}

/// Keeps arguments as a graph does: as they were when it was made or updated.
class HostGraph final : public LaunchGraph {
 public:
  explicit HostGraph(const std::vector<LaunchNode>& nodes) {
    for (const LaunchNode& node : nodes) nodes_.emplace_back(node);
  }
  void Update(size_t index, const LaunchNode& node) override { nodes_[index] = OwnedNode(node); }
  void Launch(Stream& stream) override {
    ++cuda_host::TheStreamCounts().graph_launches;
    for (const OwnedNode& node : nodes_) Enqueue(stream, node);
  }

 private:
  std::vector<OwnedNode> nodes_;
};

}  // namespace

void LaunchNow(Stream& stream, const LaunchNode& node) {
  ++cuda_host::TheStreamCounts().kernel_launches;
  Enqueue(stream, OwnedNode(node));
}

std::unique_ptr<LaunchGraph> MakeLaunchGraph(const std::vector<LaunchNode>& nodes) {
  return std::make_unique<HostGraph>(nodes);
}

}  // namespace nsa::kernels::cuda
