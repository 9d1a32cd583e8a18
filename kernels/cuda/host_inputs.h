#ifndef NSA_KERNELS_CUDA_HOST_INPUTS_H_
#define NSA_KERNELS_CUDA_HOST_INPUTS_H_

#include <cstdint>
#include <vector>

#include "kernels/cuda/device_types.h"
#include "kernels/cuda/runtime.h"
#include "kernels/memory.h"
#include "kernels/ops/attention.h"

namespace nsa::kernels::cuda {

/// What the host brings to the operators of a step (Backend), where kernels can read it: copied
/// through pinned memory, once a step however many layers ask. Steps take turns in two areas, so
/// that the inputs of one are written while the step before still reads its own. One thread.
class HostInputs {
 public:
  /// Begins with room for `num_bytes` a step; takes more where a step needs it.
  HostInputs(Stream& stream, int64_t num_bytes);

  /// Goes on in the other area, when the last step but one has been done there. All that reads
  /// what this step was given has been enqueued.
  void BeginStep();
  /// 0 or 1: where this step's inputs are.
  int area() const { return current_; }

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

  struct Area {
    Memory pinned, device;
    int64_t used = 0;
    std::vector<Memory> outgrown;  // which kernels of its step may still read
    Event is_read;                 // by all of its step
  };

  const std::byte* Find(const void* host, int64_t num_bytes) const;
  const std::byte* PlaceBytes(const void* data, int64_t num_bytes, bool is_kept);
  Piece Take(int64_t num_bytes);
  static void Allocate(Area& area, int64_t num_bytes);

  Area& area_in_use() { return areas_[current_]; }

  Stream& stream_;
  Area areas_[2];
  int current_ = 0;
  std::vector<Placed> placed_;
};

}  // namespace nsa::kernels::cuda

#endif  // NSA_KERNELS_CUDA_HOST_INPUTS_H_
