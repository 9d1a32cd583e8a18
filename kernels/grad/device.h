#ifndef NSA_KERNELS_GRAD_DEVICE_H_
#define NSA_KERNELS_GRAD_DEVICE_H_

#include <cstdint>
#include <memory>
#include <string>

#include "kernels/grad/grad_attention.h"
#include "kernels/grad/grad_windows.h"
#include "kernels/tensor.h"

/// The operators for training on one device, whose memory all tensors are in. cu_seqlens is the
/// host's.
namespace nsa::kernels::grad {

/// Elements of q, k, v, out and their gradients: kF32, or kBF16 where the device serves it.
struct DeviceAttention {
  DType dtype = DType::kF32;
  AttentionInput<void> input;
};

/// As AttentionOutput; lse is float32 for every dtype.
struct DeviceOutput {
  void* out = nullptr;
  float* lse = nullptr;
  int32_t* selected = nullptr;
};

/// As AttentionGradients.
struct DeviceGradients {
  const void* out = nullptr;
  const float* lse = nullptr;
  const void* grad_out = nullptr;
  void* grad_q = nullptr;
  void* grad_k = nullptr;
  void* grad_v = nullptr;
};

/// Windows and their tensors, as GatherWindowsInput and GatherWindowsGradients have them; of means
/// `position` and `grad_position` are null.
struct DeviceWindows {
  DType dtype = DType::kF32;
  WindowsShape shape;
  const void* x = nullptr;
  const void* position = nullptr;
  void* windows = nullptr;  // forward: gathered, or means
  const void* grad_windows = nullptr;
  void* grad_x = nullptr;
  void* grad_position = nullptr;
};

/// One thread at a time. The same results whatever else is in a batch.
class Device {
 public:
  virtual ~Device() = default;

  virtual bool Serves(DType dtype) const = 0;
  /// The widest sum of head_dim_k and head_dim_v that it takes.
  virtual int64_t max_head_dims() const = 0;
  /// Whether the host may read what operators are given; else they run on a stream, and have only
  /// been enqueued when they return.
  virtual bool is_host() const = 0;
  /// A cudaStream_t for calls from now on, null: the default stream; nothing on the host.
  virtual void SetStream(void* stream) = 0;

  virtual void AttentionForward(const DeviceAttention& attention, const DeviceOutput& output) = 0;
  virtual void AttentionBackward(const DeviceAttention& attention,
                                 const DeviceGradients& gradients) = 0;
  virtual void GatherWindows(const DeviceWindows& windows) = 0;
  virtual void GatherWindowsBackward(const DeviceWindows& windows) = 0;
  virtual void MeanWindows(const DeviceWindows& windows) = 0;
  virtual void MeanWindowsBackward(const DeviceWindows& windows) = 0;
};

struct OpenedDevice {
  std::unique_ptr<Device> device;
  std::string error;  // where there is no device
};

/// Highway; nothing in a build without it. num_threads ≥ 1.
OpenedDevice OpenCpu(int num_threads);

/// The first GPU that CUDA shows this process; nothing in a build without CUDA, without a device or
/// with too old a driver.
OpenedDevice OpenCuda();

}  // namespace nsa::kernels::grad

#endif  // NSA_KERNELS_GRAD_DEVICE_H_
