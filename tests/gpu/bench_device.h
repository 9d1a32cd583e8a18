#ifndef NSA_TESTS_GPU_BENCH_DEVICE_H_
#define NSA_TESTS_GPU_BENCH_DEVICE_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "kernels/cuda/device_types.h"

/// What benches on a GPU need of it, without the toolkit's headers: memory, random contents, times.
/// A failing call of CUDA's ends the program with its message.
namespace nsa::gpu {

/// Plain device memory (cudaMalloc), of no contents at first.
class DeviceMemory {
 public:
  explicit DeviceMemory(int64_t num_bytes);
  ~DeviceMemory();
  DeviceMemory(DeviceMemory&& other) noexcept;
  DeviceMemory(const DeviceMemory&) = delete;
  DeviceMemory& operator=(const DeviceMemory&) = delete;
  DeviceMemory& operator=(DeviceMemory&&) = delete;

  void* data() const { return data_; }
  int64_t num_bytes() const { return num_bytes_; }

 private:
  void* data_ = nullptr;
  int64_t num_bytes_ = 0;
};

/// [count] of T in device memory.
template <typename T>
class DeviceArray {
 public:
  explicit DeviceArray(int64_t count) : memory_(count * static_cast<int64_t>(sizeof(T))) {}
  explicit DeviceArray(const std::vector<T>& values);

  T* data() const { return static_cast<T*>(memory_.data()); }
  int64_t size() const { return memory_.num_bytes() / static_cast<int64_t>(sizeof(T)); }
  std::vector<T> Download() const;

 private:
  DeviceMemory memory_;
};

/// Waits for all work.
void Synchronize();

void CopyToDevice(void* device, const void* host, int64_t num_bytes);
void CopyToHost(void* host, const void* device, int64_t num_bytes);

template <typename T>
DeviceArray<T>::DeviceArray(const std::vector<T>& values)
    : DeviceArray(static_cast<int64_t>(values.size())) {
  CopyToDevice(data(), values.data(), memory_.num_bytes());
}

template <typename T>
std::vector<T> DeviceArray<T>::Download() const {
  std::vector<T> values(static_cast<size_t>(size()));
  CopyToHost(values.data(), data(), memory_.num_bytes());
  return values;
}

/// Numbers of about a normal distribution with standard deviation 1, the same for the same seed.
void FillRandom(const DeviceArray<float>& array, uint32_t seed);
void FillRandom(const DeviceArray<kernels::cuda::Bf16>& array, uint32_t seed);

struct DeviceInfo {
  std::string name;
  int compute_capability = 0;  // 90: sm_90
  int num_multiprocessors = 0;
  int64_t l2_bytes = 0;
  int64_t free_bytes = 0;
};
/// False where there is no GPU.
bool FindDevice(DeviceInfo& info);

/// Bytes a second that a kernel reads which does nothing else, of more than fits into L2: the
/// median of several readings of 4 GiB, or of half of what is free.
double MeasureReadBandwidth();

/// Seconds of one call of `enqueue`, which only enqueues on the stream that it is given: captured
/// as a CUDA graph, the median of `rounds` replays by events, after one that does not count.
double MeasureGraph(const std::function<void(kernels::cuda::Stream&)>& enqueue, int rounds);

/// The same for one call without a graph, for work of milliseconds.
double MeasureOnce(const std::function<void(kernels::cuda::Stream&)>& enqueue);

}  // namespace nsa::gpu

#endif  // NSA_TESTS_GPU_BENCH_DEVICE_H_
