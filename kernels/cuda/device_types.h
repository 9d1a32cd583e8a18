#ifndef NSA_KERNELS_CUDA_DEVICE_TYPES_H_
#define NSA_KERNELS_CUDA_DEVICE_TYPES_H_

#include <cstdint>

/// What the device and its emulator name alike.
namespace nsa::kernels::cuda {

inline constexpr int kWarpSize = 32;
inline constexpr uint32_t kAllLanes = 0xFFFFFFFFu;

/// 16-bit floats as their bits, so that no header of the toolkit is needed to name them.
struct Bf16 {
  uint16_t bits;
};
struct F16 {
  uint16_t bits;
};

/// What one thread moves at once; addresses are multiples of 16.
struct alignas(16) U32x4 {
  uint32_t x[4];
};

class LaunchQueue;

/// A CUDA stream, without the toolkit's headers: `handle` is a cudaStream_t; null: the default one.
/// Launches wait in the queue, where there is one, until that is flushed.
struct Stream {
  void* handle = nullptr;
  LaunchQueue* queue = nullptr;
};

/// CTAs and threads of one launch. A grid without CTAs launches nothing.
struct LaunchShape {
  const char* name = "";     // of the kernel, for messages
  int64_t grid_x = 1;        // < 2³¹
  int64_t grid_y = 1;        // < 2¹⁶
  int num_threads = 0;       // of a CTA, ≤ 1024
  int64_t shared_bytes = 0;  // of SharedArena: the sum of its pieces, each rounded up to 16
};

constexpr int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

/// An index below 2³¹, such as a CTA's, as (quotient, remainder). A GPU divides 64 bits in a
/// subroutine, around which registers are spilled.
struct Split {
  int64_t quotient;
  int64_t remainder;
};
constexpr Split SplitIndex(int64_t index, int64_t divisor) {
  const auto i = static_cast<uint32_t>(index), d = static_cast<uint32_t>(divisor);
  return {i / d, i % d};
}

}  // namespace nsa::kernels::cuda

#endif  // NSA_KERNELS_CUDA_DEVICE_TYPES_H_
