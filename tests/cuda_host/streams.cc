#include "tests/cuda_host/streams.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "kernels/check.h"
#include "kernels/cuda/runtime.h"
#include "tests/cuda_host/device_memory.h"
#include "tests/cuda_host/emulator.h"

namespace nsa::cuda_host {
namespace {

using kernels::cuda::Event;
using kernels::cuda::Stream;

constexpr uintptr_t kPageBytes = 4096;

/// Of streams by their number, how many of their works are known to come before.
using Clock = std::map<int64_t, int64_t>;

void Join(Clock& clock, const Clock& other) {
  for (const auto& [stream, work] : other) clock[stream] = std::max(clock[stream], work);
}

/// A kernel, a wait for another stream's work, or a copy.
struct Pending {
  int64_t work = 0;
  std::function<void()> kernel = {};
  int64_t other_stream = -1;
  int64_t other_work = 0;
  std::byte* target = nullptr;  // of a copy alone
  const std::byte* source = nullptr;
  int64_t num_bytes = 0;
  std::vector<std::byte> sent = {};  // what a pinned source held; empty: not looked at

  bool is_copy() const { return target != nullptr; }
};

struct HostStream {
  int64_t number = 0;
  int64_t num_works = 0;
  int64_t last_kernel = 0;
  Clock before;  // of other streams, what comes before this one's next work
  std::deque<Pending> pending;
};

struct HostEvent {
  int64_t stream = -1;
  int64_t work = 0;
  Clock before;
  int num_questions = 0;
};

struct World {
  int delay = 0;
  bool ignores_events = false;
  int64_t num_streams = 0;
  std::map<int64_t, HostStream*> streams;
  std::map<const std::byte*, int64_t> pinned;  // begin → bytes
  Clock host;                                  // what this machine knows to be done
  StreamCounts counts;
};

World& TheWorld() {
  static World world;
  return world;
}

HostStream* StreamOf(const Stream& stream) { return static_cast<HostStream*>(stream.handle); }
HostEvent& EventOf(const Event& event) { return *static_cast<HostEvent*>(event.handle()); }

bool IsPinned(const std::byte* data, int64_t num_bytes) {
  auto it = TheWorld().pinned.upper_bound(data);
  if (it == TheWorld().pinned.begin()) return false;
  --it;
  return data + num_bytes <= it->first + it->second;
}

/// The whole pages inside.
void Protect(const std::byte* data, int64_t num_bytes, int protection) {
  const auto address = reinterpret_cast<uintptr_t>(data);
  const uintptr_t skipped = (kPageBytes - address % kPageBytes) % kPageBytes;
  if (static_cast<uintptr_t>(num_bytes) < skipped + kPageBytes) return;
  const uintptr_t size = (static_cast<uintptr_t>(num_bytes) - skipped) / kPageBytes * kPageBytes;
  NSA_CHECK(mprotect(const_cast<std::byte*>(data) + skipped, size, protection) == 0);
}

template <typename Visit>
void ForEachCopy(Visit&& visit) {
  for (const auto& [number, stream] : TheWorld().streams) {
    for (const Pending& pending : stream->pending) {
      if (pending.is_copy()) visit(pending);
    }
  }
}

/// Both ends where `on_device`, or where not: sources first, as one may be another's target.
void ProtectEnds(bool on_device) {
  ForEachCopy([&](const Pending& copy) {
    if (IsDeviceMemory(copy.source, copy.num_bytes) == on_device) {
      Protect(copy.source, copy.num_bytes, PROT_READ);
    }
  });
  ForEachCopy([&](const Pending& copy) {
    if (IsDeviceMemory(copy.target, copy.num_bytes) == on_device) {
      Protect(copy.target, copy.num_bytes, PROT_NONE);
    }
  });
}

/// Of a copy that runs now, whatever those behind it do to the same bytes.
void Open(const std::byte* data, int64_t num_bytes) {
  if (!IsPinned(data, num_bytes) && !IsDeviceMemory(data, num_bytes)) return;
  Protect(data, num_bytes, PROT_READ | PROT_WRITE);
}

void DoCopy(const Pending& copy) {
  const DeviceMemoryAccess access;
  const bool is_watched = TheWorld().delay > 0;
  if (is_watched) {
    Open(copy.target, copy.num_bytes);
    Open(copy.source, copy.num_bytes);
  }
  const auto size = static_cast<size_t>(copy.num_bytes);
  if (!copy.sent.empty() && std::memcmp(copy.sent.data(), copy.source, size) != 0) {
    throw Error("pinned memory was written before it had been copied to the device");
  }
  std::memcpy(copy.target, copy.source, size);
  if (!is_watched) return;
  ProtectEnds(/*on_device=*/false);
  ProtectEnds(/*on_device=*/true);
}

void RunUpTo(HostStream& stream, int64_t work) {
  while (!stream.pending.empty() && stream.pending.front().work <= work) {
    const Pending next = std::move(stream.pending.front());
    stream.pending.pop_front();
    if (next.is_copy()) {
      DoCopy(next);
    } else if (next.kernel != nullptr) {
      next.kernel();
    } else if (const auto other = TheWorld().streams.find(next.other_stream);
               other != TheWorld().streams.end()) {
      RunUpTo(*other->second, next.other_work);
    }
  }
}

int64_t Known(const Clock& clock, int64_t stream) {
  const auto it = clock.find(stream);
  return it == clock.end() ? 0 : it->second;
}

bool Overlap(const std::byte* a, int64_t a_bytes, const std::byte* b, int64_t b_bytes) {
  return a < b + b_bytes && b < a + a_bytes;
}
bool Conflict(const Pending& a, const Pending& b) {
  return Overlap(a.target, a.num_bytes, b.target, b.num_bytes) ||
         Overlap(a.target, a.num_bytes, b.source, b.num_bytes) ||
         Overlap(a.source, a.num_bytes, b.target, b.num_bytes);
}

/// CUDA orders nothing between two streams but by events and by a host that has waited.
void CheckOrder(const HostStream& stream, const Pending& copy) {
  const char* broken = nullptr;
  for (const auto& [number, other] : TheWorld().streams) {
    if (number == stream.number || TheWorld().delay == 0) continue;
    const int64_t before = Known(stream.before, number);
    if (std::max(before, Known(TheWorld().host, number)) < other->last_kernel) {
      broken = "a copy is not ordered behind kernels of another stream";
    }
    for (const Pending& pending : other->pending) {
      if (!pending.is_copy() || pending.work <= before || !Conflict(pending, copy)) continue;
      broken = "a copy touches what another stream's copy writes, or writes what that reads";
    }
  }
  if (broken == nullptr) return;
  std::fprintf(stderr, "%s\n", broken);
  std::abort();
}

}  // namespace

void SetCopyDelay(int num_questions) {
  EndAll();
  TheWorld().delay = num_questions;
}
IgnoreEvents::IgnoreEvents() { TheWorld().ignores_events = true; }
IgnoreEvents::~IgnoreEvents() { TheWorld().ignores_events = false; }
StreamCounts& TheStreamCounts() { return TheWorld().counts; }
StreamCounts CountsOfStreams() { return TheWorld().counts; }

void NotePinned(const std::byte* begin, int64_t num_bytes) { TheWorld().pinned[begin] = num_bytes; }

void ForgetPinned(const std::byte* begin) {
  const auto it = TheWorld().pinned.find(begin);
  NSA_CHECK(it != TheWorld().pinned.end());
  if (TheWorld().delay == 0) EndAll();
  ForEachCopy([&](const Pending& copy) {
    for (const std::byte* end : {static_cast<const std::byte*>(copy.target), copy.source}) {
      NSA_CHECK(end < begin || end >= begin + it->second);  // a copy is under way
    }
  });
  TheWorld().pinned.erase(it);
}

void ProtectCopies() {
  if (TheWorld().delay > 0) ProtectEnds(/*on_device=*/true);
}

void EndAll() {
  for (const auto& [number, stream] : TheWorld().streams) RunUpTo(*stream, stream->num_works);
}

void EnqueueKernel(Stream& stream, std::function<void()> kernel) {
  if (stream.handle == nullptr) return kernel();
  HostStream& enqueued = *StreamOf(stream);
  enqueued.last_kernel = ++enqueued.num_works;
  enqueued.pending.push_back({.work = enqueued.last_kernel, .kernel = std::move(kernel)});
  if (TheWorld().delay > 0) RunUpTo(enqueued, enqueued.num_works);
}

}  // namespace nsa::cuda_host

namespace nsa::kernels::cuda {

using cuda_host::EventOf;
using cuda_host::HostEvent;
using cuda_host::HostStream;
using cuda_host::StreamOf;
using cuda_host::TheWorld;

Stream CreateStream() {
  auto stream = std::make_unique<HostStream>();
  stream->number = TheWorld().num_streams++;
  TheWorld().streams[stream->number] = stream.get();
  return {.handle = stream.release(), .queue = nullptr};
}

void DestroyStream(Stream& stream) {
  const std::unique_ptr<HostStream> ended(StreamOf(stream));
  cuda_host::RunUpTo(*ended, ended->num_works);
  TheWorld().streams.erase(ended->number);
  stream.handle = nullptr;
}

Event::Event() : handle_(std::make_unique<HostEvent>().release()) {}
Event::~Event() { delete static_cast<HostEvent*>(handle_); }

void Event::Record(Stream& stream) {
  if (stream.handle == nullptr) {  // all is done
    EventOf(*this) = {};
    return;
  }
  const HostStream& recorded = *StreamOf(stream);
  EventOf(*this) = {recorded.number, recorded.num_works, recorded.before, 0};
}

namespace {

void Happen(const HostEvent& event) {
  const auto stream = TheWorld().streams.find(event.stream);
  if (stream != TheWorld().streams.end()) cuda_host::RunUpTo(*stream->second, event.work);
  cuda_host::Join(TheWorld().host, event.before);
  cuda_host::Join(TheWorld().host, {{event.stream, event.work}});
}

}  // namespace

void Event::WaitFor() {
  if (TheWorld().ignores_events) return;
  ++TheWorld().counts.waits;
  Happen(EventOf(*this));
}

bool Event::HasHappened() const {
  HostEvent& asked = EventOf(*this);
  const auto stream = TheWorld().streams.find(asked.stream);
  if (stream != TheWorld().streams.end()) {
    const auto& pending = stream->second->pending;
    const bool waits = !pending.empty() && pending.front().work <= asked.work;
    if (waits && ++asked.num_questions <= TheWorld().delay) return false;
  }
  Happen(asked);
  return true;
}

void WaitFor(Stream& stream, const Event& event) {
  NSA_CHECK(stream.handle != nullptr);
  HostStream& waiting = *StreamOf(stream);
  const HostEvent& before = EventOf(event);
  cuda_host::Join(waiting.before, before.before);
  cuda_host::Join(waiting.before, {{before.stream, before.work}});
  waiting.pending.push_back(
      {.work = ++waiting.num_works, .other_stream = before.stream, .other_work = before.work});
}

void Wait(Stream& stream) {
  ++TheWorld().counts.waits;
  if (stream.handle == nullptr) return;
  HostStream& waited = *StreamOf(stream);
  cuda_host::RunUpTo(waited, waited.num_works);
  cuda_host::Join(TheWorld().host, waited.before);
  cuda_host::Join(TheWorld().host, {{waited.number, waited.num_works}});
}

void CopyBytes(Stream& stream, void* target, const void* source, int64_t num_bytes) {
  cuda_host::Pending copy = {.target = static_cast<std::byte*>(target),
                             .source = static_cast<const std::byte*>(source),
                             .num_bytes = num_bytes};
  if (num_bytes == 0) return;
  if (stream.handle == nullptr) return cuda_host::DoCopy(copy);
  HostStream& enqueued = *StreamOf(stream);
  cuda_host::CheckOrder(enqueued, copy);
  copy.work = ++enqueued.num_works;
  const bool to_pinned = cuda_host::IsPinned(copy.target, num_bytes);
  const bool from_pinned = cuda_host::IsPinned(copy.source, num_bytes);
  const bool is_fast = (to_pinned || cuda_host::IsDeviceMemory(copy.target, num_bytes)) &&
                       (from_pinned || cuda_host::IsDeviceMemory(copy.source, num_bytes));
  const bool is_watched = TheWorld().delay > 0;
  if (!is_fast || (is_watched && !to_pinned && !from_pinned)) {
    cuda_host::RunUpTo(enqueued, copy.work);
    return cuda_host::DoCopy(copy);
  }
  if (is_watched) {
    ++TheWorld().counts.delayed_copies;
  } else {
    if (from_pinned) copy.sent.assign(copy.source, copy.source + num_bytes);
    if (to_pinned) std::memset(copy.target, 0xA5, static_cast<size_t>(num_bytes));
  }
  enqueued.pending.push_back(std::move(copy));
  if (is_watched) cuda_host::ProtectEnds(/*on_device=*/false);
}

}  // namespace nsa::kernels::cuda
