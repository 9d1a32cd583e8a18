#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <span>
#include <utility>
#include <vector>

#include "kernels/cuda/launch_queue.h"
#include "kernels/cuda/runtime.h"
#include "kernels/cuda/side_copies.h"

namespace nsa::kernels::cuda {
namespace {

/// Zeros on the device that Clear copies from: a large page's, so that a page is a copy or two.
constexpr int64_t kZeroBytes = int64_t{8} << 20;

/// Events that nobody waits for are used again: to make one takes longer than a small copy.
class EventPool {
 public:
  Event Take() {
    if (free_.empty()) return Event();
    Event event = std::move(free_.back());
    free_.pop_back();
    return event;
  }
  void Give(Event event) { free_.push_back(std::move(event)); }

 private:
  std::vector<Event> free_;
};

/// One direction: a stream whose copies end in their order.
class CopyLane {
 public:
  explicit CopyLane(EventPool& events) : events_(events), stream_(CreateStream()) {}
  CopyLane(const CopyLane&) = delete;
  CopyLane& operator=(const CopyLane&) = delete;
  ~CopyLane() {
    Wait(stream_);
    DestroyStream(stream_);
  }

  Stream& stream() { return stream_; }
  void End(int64_t ticket) {
    Running copy = {.ticket = ticket, .end = events_.Take()};
    copy.end.Record(stream_);
    running_.push_back(std::move(copy));
  }
  void TakeEnded(std::vector<int64_t>& tickets) {
    while (!running_.empty() && running_.front().end.HasHappened()) {
      tickets.push_back(running_.front().ticket);
      events_.Give(std::move(running_.front().end));
      running_.pop_front();
    }
  }

 private:
  struct Running {
    int64_t ticket = 0;
    Event end;
  };
  EventPool& events_;
  Stream stream_;
  std::deque<Running> running_;
};

class CudaSideCopies final : public SideCopies {
 public:
  CudaSideCopies(Stream& compute, LaunchQueue& queue) : compute_(compute), queue_(queue) {}

  bool has_memory() const { return zeros_.data() != nullptr; }

  Memory AllocateHost(int64_t num_bytes) override { return AllocatePinned(num_bytes); }

  void Start(Direction direction, std::span<const Piece> pieces, int64_t ticket) override {
    CopyLane& lane = direction == Direction::kToHost ? to_host_ : to_device_;
    Begin(lane);
    for (const Piece& piece : pieces) {
      if (direction == Direction::kToHost) {
        CopyBytes(lane.stream(), piece.host, piece.device, piece.num_bytes);
      } else {
        CopyBytes(lane.stream(), piece.device, piece.host, piece.num_bytes);
      }
    }
    lane.End(ticket);
  }

  void Clear(std::byte* host, int64_t num_bytes) override {
    Begin(to_host_);
    for (int64_t begin = 0; begin < num_bytes; begin += kZeroBytes) {
      CopyBytes(to_host_.stream(), host + begin, zeros_.data(),
                std::min(kZeroBytes, num_bytes - begin));
    }
  }

  std::vector<int64_t> TakeEnded() override {
    std::vector<int64_t> tickets;
    for (CopyLane* lane : {&to_host_, &to_device_}) lane->TakeEnded(tickets);
    return tickets;
  }

 private:
  /// What was asked for before may still stand in the queue, or run: it writes what goes out, and
  /// reads what stood where something comes in.
  void Begin(CopyLane& lane) {
    queue_.Flush(compute_);
    before_.Record(compute_);
    WaitFor(lane.stream(), before_);
  }

  Stream& compute_;
  LaunchQueue& queue_;
  Event before_;
  Memory zeros_ = AllocateDevice(kZeroBytes);
  EventPool events_;
  CopyLane to_host_{events_};  // lanes end first: they wait for their copies
  CopyLane to_device_{events_};
};

}  // namespace

std::unique_ptr<SideCopies> MakeSideCopies(Stream& compute, LaunchQueue& queue) {
  auto copies = std::make_unique<CudaSideCopies>(compute, queue);
  if (!copies->has_memory()) return nullptr;
  return copies;
}

}  // namespace nsa::kernels::cuda
