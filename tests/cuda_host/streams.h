#ifndef NSA_TESTS_CUDA_HOST_STREAMS_H_
#define NSA_TESTS_CUDA_HOST_STREAMS_H_

#include <cstddef>
#include <cstdint>
#include <functional>

#include "kernels/cuda/device_types.h"

/// Streams that are not in step: what a GPU may do to who forgets an order between them. One thread
/// at a time.
///
/// A stream of CreateStream does nothing before somebody waits for it, or asks for an event: the
/// latest that a device may. A copy to pinned memory leaves other bytes there until it is done, and
/// one whose pinned source has changed meanwhile throws Error. Whatever else is copied is waited
/// for. Stream{} does its work at once.
namespace nsa::cuda_host {

/// The other way to be late, from now on; 0: the one above, as at the start. All else happens at
/// once, but a copy between pinned memory and the device is under way until somebody waits for it
/// or has asked for it so many times. While it is, what it writes can be touched by nobody and what
/// it reads can be read alone, neither by kernels and copies nor by this machine (whole pages of
/// 4,096 bytes, so that small copies are not watched): a touch ends the process. And so does a copy
/// that is not ordered behind every kernel that was launched on another stream before, or behind
/// another stream's copy of the same bytes: one backend at a time, for those of another are not
/// told from its own. Ends all that is under way. On a GPU: changes nothing.
void SetCopyDelay(int num_questions);

/// While one lives, Event::WaitFor returns at once: what needs it shows.
class IgnoreEvents {
 public:
  IgnoreEvents();
  ~IgnoreEvents();
  IgnoreEvents(const IgnoreEvents&) = delete;
  IgnoreEvents& operator=(const IgnoreEvents&) = delete;
};

/// Since the start of the process; 0 on a GPU.
struct StreamCounts {
  int64_t graph_launches = 0;
  int64_t kernel_launches = 0;  // without those of graphs
  int64_t waits = 0;            // of the host
  int64_t delayed_copies = 0;
};
StreamCounts CountsOfStreams();

// For runtime.cc.

StreamCounts& TheStreamCounts();
void NotePinned(const std::byte* begin, int64_t num_bytes);
/// Waits for the device; with SetCopyDelay no copy may be under way there.
void ForgetPinned(const std::byte* begin);
/// Inside of DeviceMemoryAccess, where all device memory can be touched: but for copies under way.
void ProtectCopies();
void EnqueueKernel(kernels::cuda::Stream& stream, std::function<void()> kernel);
/// As what waits for the whole device does.
void EndAll();

}  // namespace nsa::cuda_host

#endif  // NSA_TESTS_CUDA_HOST_STREAMS_H_
