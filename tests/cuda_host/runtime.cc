#include "kernels/cuda/runtime.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "kernels/check.h"
#include "kernels/cuda/launch_queue.h"
#include "tests/cuda_host/device_memory.h"
#include "tests/cuda_host/emulator.h"

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

/// A stream that does nothing before somebody waits for it: the latest that a device may.
struct LazyStream {
  std::deque<std::function<void()>> work;
  int64_t num_done = 0;

  int64_t num_enqueued() const { return num_done + std::ssize(work); }
  void RunUntil(int64_t end) {
    while (num_done < end) {
      const std::function<void()> next = std::move(work.front());
      work.pop_front();
      ++num_done;
      next();
    }
  }
};

/// A place in one.
struct LazyEvent {
  std::weak_ptr<LazyStream> stream;
  int64_t end = 0;
};

/// By handle. A stream that is not here does its work at once.
std::map<const void*, std::shared_ptr<LazyStream>>& TheStreams() {
  static std::map<const void*, std::shared_ptr<LazyStream>> streams;
  return streams;
}

std::shared_ptr<LazyStream> Find(const kernels::cuda::Stream& stream) {
  const auto it = TheStreams().find(stream.handle);
  return it == TheStreams().end() ? nullptr : it->second;
}

void Finish(LazyStream& stream) { stream.RunUntil(stream.num_enqueued()); }

void FinishAll() {
  for (const auto& [handle, stream] : TheStreams()) Finish(*stream);
}

/// Sizes of AllocatePinned, by address.
std::map<const std::byte*, int64_t>& ThePinned() {
  static std::map<const std::byte*, int64_t> pinned;
  return pinned;
}

bool IsPinned(const void* data, int64_t num_bytes) {
  const auto* first = static_cast<const std::byte*>(data);
  const auto it = ThePinned().upper_bound(first);
  if (it == ThePinned().begin()) return false;
  const auto& [begin, size] = *std::prev(it);
  return first + num_bytes <= begin + size;
}

bool g_ignores_events = false;

void CopyNow(void* target, const void* source, int64_t num_bytes) {
  const DeviceMemoryAccess access;
  std::memcpy(target, source, static_cast<size_t>(num_bytes));
}

/// Nobody may write what a copy is still to read, nor read what it is still to write.
void CopyLater(LazyStream& stream, void* target, const void* source, int64_t num_bytes) {
  std::vector<std::byte> sent;
  if (IsPinned(source, num_bytes)) {
    const auto* first = static_cast<const std::byte*>(source);
    sent.assign(first, first + num_bytes);
  }
  if (IsPinned(target, num_bytes)) std::memset(target, 0xA5, static_cast<size_t>(num_bytes));
  stream.work.emplace_back([=, sent = std::move(sent)] {
    if (!sent.empty() && std::memcmp(sent.data(), source, sent.size()) != 0) {
      throw Error("pinned memory was written before it had been copied to the device");
    }
    CopyNow(target, source, num_bytes);
  });
}

}  // namespace

IgnoreEvents::IgnoreEvents() { g_ignores_events = true; }
IgnoreEvents::~IgnoreEvents() { g_ignores_events = false; }

DeviceMemoryAccess::DeviceMemoryAccess() {
  if (TheArena().num_accesses++ == 0) Protect(PROT_READ | PROT_WRITE);
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

}  // namespace nsa::cuda_host

namespace nsa::kernels::cuda {

using cuda_host::DeviceMemoryAccess;
using cuda_host::TheArena;

std::optional<DeviceProperties> OpenDevice(std::string&) {
  return DeviceProperties{.name = "emulator",
                          .major = 9,
                          .num_multiprocessors = 1,
                          .total_bytes = TheArena().device_bytes};
}

Stream CreateStream() {
  auto stream = std::make_shared<cuda_host::LazyStream>();
  void* const handle = stream.get();
  cuda_host::TheStreams()[handle] = std::move(stream);
  return {.handle = handle, .queue = nullptr};
}

void DestroyStream(Stream& stream) {
  Wait(stream);
  cuda_host::TheStreams().erase(stream.handle);
  stream.handle = nullptr;
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
            cuda_host::FinishAll();
            TheArena().live_bytes -= size;
            // Its addresses stay, its memory goes back.
            (void)madvise(memory, static_cast<size_t>(cuda_host::RoundUp(size + 1)), MADV_DONTNEED);
          }};
}

Memory AllocatePinned(int64_t num_bytes) {
  const auto size = static_cast<size_t>(num_bytes);
  auto* data = static_cast<std::byte*>(std::aligned_alloc(4096, (size / 4096 + 1) * 4096));
  std::memset(data, 0, size);
  cuda_host::ThePinned()[data] = num_bytes;
  return {data, num_bytes, [](std::byte* memory, int64_t) {
            cuda_host::FinishAll();
            cuda_host::ThePinned().erase(memory);
            std::free(memory);
          }};
}

void CopyBytes(Stream& stream, void* target, const void* source, int64_t num_bytes) {
  const auto lazy = cuda_host::Find(stream);
  if (lazy == nullptr) return cuda_host::CopyNow(target, source, num_bytes);
  const auto is_fast = [num_bytes](const void* data) {
    return cuda_host::IsDeviceMemory(data, num_bytes) || cuda_host::IsPinned(data, num_bytes);
  };
  if (is_fast(target) && is_fast(source)) {
    return cuda_host::CopyLater(*lazy, target, source, num_bytes);
  }
  cuda_host::Finish(*lazy);
  cuda_host::CopyNow(target, source, num_bytes);
}

void Wait(Stream& stream) {
  if (const auto lazy = cuda_host::Find(stream); lazy != nullptr) cuda_host::Finish(*lazy);
}

Event::Event() : handle_(new cuda_host::LazyEvent) {}
Event::~Event() { delete static_cast<cuda_host::LazyEvent*>(handle_); }

void Event::Record(Stream& stream) {
  const auto lazy = cuda_host::Find(stream);
  *static_cast<cuda_host::LazyEvent*>(handle_) = {lazy, lazy == nullptr ? 0 : lazy->num_enqueued()};
}

void Event::WaitFor() {
  const auto& event = *static_cast<cuda_host::LazyEvent*>(handle_);
  if (cuda_host::g_ignores_events) return;
  if (const auto stream = event.stream.lock(); stream != nullptr) stream->RunUntil(event.end);
}

namespace {

/// A node with an argument of its own.
struct OwnedNode {
  explicit OwnedNode(const LaunchNode& from) : node(from) {
    const auto* first = static_cast<const std::byte*>(node.argument);
    argument.assign(first, first + node.argument_bytes);
  }
  void Run() const {
    const DeviceMemoryAccess access;
    cuda_host::RunLaunch(node.shape, [&] { node.run(node.function, argument.data()); });
  }

  LaunchNode node;
  std::vector<std::byte> argument;
};

}  // namespace

void LaunchNow(Stream& stream, const LaunchNode& node) {
  OwnedNode owned(node);
  const auto lazy = cuda_host::Find(stream);
  if (lazy == nullptr) return owned.Run();
  lazy->work.emplace_back([owned = std::move(owned)] { owned.Run(); });
}

namespace {

/// Keeps arguments as a graph does: as they were when it was made or updated.
class HostGraph final : public LaunchGraph {
 public:
  explicit HostGraph(const std::vector<LaunchNode>& nodes) {
    for (const LaunchNode& node : nodes) nodes_.emplace_back(node);
  }
  void Update(size_t index, const LaunchNode& node) override { nodes_[index] = OwnedNode(node); }
  void Launch(Stream& stream) override {
    for (OwnedNode& owned : nodes_) {
      owned.node.argument = owned.argument.data();
      LaunchNow(stream, owned.node);
    }
  }

 private:
  std::vector<OwnedNode> nodes_;
};

}  // namespace

std::unique_ptr<LaunchGraph> MakeLaunchGraph(const std::vector<LaunchNode>& nodes) {
  return std::make_unique<HostGraph>(nodes);
}

}  // namespace nsa::kernels::cuda
