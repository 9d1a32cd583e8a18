#ifndef NSA_TESTS_CUDA_HOST_DEVICE_MEMORY_H_
#define NSA_TESTS_CUDA_HOST_DEVICE_MEMORY_H_

#include <cstdint>

namespace nsa::cuda_host {

/// While one lives, this machine may touch the memory of kernels::cuda::AllocateDevice: inside a
/// launch or a copy. A touch at any other time is what a GPU would not survive, and ends the
/// process here too. One thread at a time.
class DeviceMemoryAccess {
 public:
  DeviceMemoryAccess();
  ~DeviceMemoryAccess();
  DeviceMemoryAccess(const DeviceMemoryAccess&) = delete;
  DeviceMemoryAccess& operator=(const DeviceMemoryAccess&) = delete;
};

/// Whether all of [data, data + num_bytes) was given out by AllocateDevice.
bool IsDeviceMemory(const void* data, int64_t num_bytes);

/// While one lives, waits for events return at once: what needs them shows.
class IgnoreEvents {
 public:
  IgnoreEvents();
  ~IgnoreEvents();
  IgnoreEvents(const IgnoreEvents&) = delete;
  IgnoreEvents& operator=(const IgnoreEvents&) = delete;
};

/// From now on FreeDeviceBytes starts from this.
void SetDeviceBytes(int64_t num_bytes);

}  // namespace nsa::cuda_host

#endif  // NSA_TESTS_CUDA_HOST_DEVICE_MEMORY_H_
