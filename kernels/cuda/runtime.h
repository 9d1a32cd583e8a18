#ifndef NSA_KERNELS_CUDA_RUNTIME_H_
#define NSA_KERNELS_CUDA_RUNTIME_H_

#include <cstdint>
#include <optional>
#include <string>
#include <utility>

#include "kernels/cuda/device_types.h"
#include "kernels/memory.h"

/// What the backend asks of the CUDA runtime, in one place: runtime_gpu.cu asks the real one; who
/// runs kernels on an emulator brings another. Errors of work already enqueued are ours or the
/// machine's, and end the process with a message.
namespace nsa::kernels::cuda {

struct DeviceProperties {
  std::string name;
  int major = 0;  // of the compute capability
  int minor = 0;
  int num_multiprocessors = 0;
  int64_t total_bytes = 0;
};

/// The first device that CUDA shows this process. Otherwise nothing, and `error` says what is
/// missing: a device, a driver for this toolkit, a device that has kernels in this build.
std::optional<DeviceProperties> OpenDevice(std::string& error);

Stream CreateStream();
void DestroyStream(Stream& stream);

/// Bytes that AllocateDevice may still give.
int64_t FreeDeviceBytes();
/// Zeroed, 256-byte aligned; without data where there is not enough. Its end waits for the device.
Memory AllocateDevice(int64_t num_bytes);
/// Of the host, where copies to and from the device need no further copy.
Memory AllocatePinned(int64_t num_bytes);

/// Enqueues a copy between host and device or inside the device. From or to host memory that is
/// not pinned the call may wait.
void CopyBytes(Stream& stream, void* target, const void* source, int64_t num_bytes);
/// Waits until all that was enqueued is done.
void Wait(Stream& stream);

/// A place in a stream's order.
class Event {
 public:
  Event();
  ~Event();
  Event(Event&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
  Event& operator=(Event&& other) noexcept {
    std::swap(handle_, other.handle_);
    return *this;
  }

  /// Behind all that was enqueued so far; what it stood for before is forgotten.
  void Record(Stream& stream);
  /// Until what was enqueued before it is done; at once where it was never recorded.
  void WaitFor();
  /// Whether that is done; does not wait.
  bool HasHappened() const;

  void* handle() const { return handle_; }

 private:
  void* handle_;  // cudaEvent_t; null where it was moved from
};
/// What is enqueued from now on begins behind the event; the host does not wait.
void WaitFor(Stream& stream, const Event& event);

}  // namespace nsa::kernels::cuda

#endif  // NSA_KERNELS_CUDA_RUNTIME_H_
