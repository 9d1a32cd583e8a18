#ifndef NSA_KERNELS_CUDA_HOST_INPUTS_H_
#define NSA_KERNELS_CUDA_HOST_INPUTS_H_

#include <cstdint>
#include <vector>

#include "kernels/cuda/device_types.h"
#include "kernels/memory.h"
#include "kernels/ops/attention.h"

namespace nsa::kernels::cuda {

/// What the host brings to the operators of a step (Backend), where kernels can read it: copied
/// through pinned memory, once a step however many layers ask. One thread.
class HostInputs {
 public:
  /// Begins with room for `num_bytes` a step; takes more where a step needs it.
  HostInputs(Stream& stream, int64_t num_bytes);

  /// Forgets what the step before was given.
  void BeginStep();

  /// The device's copy of `count` elements that stay as they are for this step. Null for null.
  template <typename T>
  const T* Place(const T* data, int64_t count) {
    return reinterpret_cast<const T*>(
        PlaceBytes(data, count * static_cast<int64_t>(sizeof(T)), /*is_kept=*/true));
  }
  /// Of elements that change within the step.
  template <typename T>
  const T* Copy(const T* data, int64_t count) {
    return reinterpret_cast<const T*>(
        PlaceBytes(data, count * static_cast<int64_t>(sizeof(T)), /*is_kept=*/false));
  }
  /// Copies to `target` on the device, through this step's pinned memory.
  void CopyTo(void* target, const void* data, int64_t num_bytes);
  /// Segments with their page tables.
  const AttentionSegment* PlaceSegments(const AttentionSegment* segments, int num_segments);

 private:
  struct Placed {
    const void* host;
    int64_t num_bytes;
    const std::byte* device;
  };
  /// A piece of this step's memory on both sides.
  struct Piece {
    std::byte* host;
    std::byte* device;
  };

  const std::byte* Find(const void* host, int64_t num_bytes) const;
  const std::byte* PlaceBytes(const void* data, int64_t num_bytes, bool is_kept);
  Piece Take(int64_t num_bytes);
  void Allocate(int64_t num_bytes);

  Stream& stream_;
  Memory pinned_, device_;
  int64_t used_ = 0;
  std::vector<Memory> outgrown_;  // which kernels of this step may still read
  std::vector<Placed> placed_;
};

}  // namespace nsa::kernels::cuda

#endif  // NSA_KERNELS_CUDA_HOST_INPUTS_H_
