#ifndef NSA_KERNELS_CUDA_MMA_COPIES_H_
#define NSA_KERNELS_CUDA_MMA_COPIES_H_

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "kernels/cuda/device.h"
#include "kernels/cuda/elements.h"
#include "kernels/cuda/mma_tile.h"
#include "kernels/cuda/mma_walk.h"

/// Pages of the cache, with elements C, on their way to the tiles of tensor cores.
namespace nsa::kernels::cuda {

/// What a tensor core multiplies: C, or float16, which holds every E4M3.
template <typename C>
using MmaType = std::conditional_t<std::is_same_v<C, F8E4M3>, F16, C>;

/// Starts the copies of the step: pages' keys, then their values, zeros for tokens that nobody
/// reads. Elements of 8 bits go to where Convert finds them.
template <typename C, typename T>
NSA_DEVICE void StartCopies(const SplitAttention& a, const TileShared<T>& shared, int step) {
  constexpr int kPerCopy = 16 / sizeof(C);
  constexpr bool kIsRaw = !std::is_same_v<C, T>;
  const int num_pages = *shared.num_pages;
  if (step >= 2 * num_pages) return;
  const bool has_keys = step < num_pages;
  const TilePage& page = shared.pages[has_keys ? step : step - num_pages];
  if (page.slot == nullptr) return;
  C* target;
  if constexpr (kIsRaw) {
    target = reinterpret_cast<C*>(shared.RawOf(step));
  } else {
    target = shared.TileOf(step);
  }
  if (has_keys) {
    const C* keys = ElementsAt<C>(page.slot, 0);
    constexpr int kCopies = kPageSize / kPerCopy;  // of a dimension
    constexpr int kPitch = kIsRaw ? kPageSize : Pitch(kPageSize);
    for (int i = ThreadIndex(); i < a.query.kv.head_dim_k * kCopies; i += NumThreads()) {
      CopyAsync(target + i / kCopies * kPitch + i % kCopies * kPerCopy, keys + i * kPerCopy);
    }
  } else {
    const int dims = a.query.kv.head_dim_v, copies = dims / kPerCopy;  // of a token
    const int pitch = kIsRaw ? dims : Pitch(dims);
    const C* values = ElementsAt<C>(page.slot, a.rows.v_offset);
    for (int i = ThreadIndex(); i < kPageSize * copies; i += NumThreads()) {
      const Split place = SplitIndex(i, copies);
      const int token = static_cast<int>(place.quotient);
      CopyAsync(target + token * pitch + place.remainder * kPerCopy, values + i * kPerCopy,
                token >= page.begin && token < page.end);
    }
  }
  CommitCopies();
}

/// The step's elements of 8 bits, which are there for all threads, as the step's tile: exact.
template <typename C, typename T>
NSA_DEVICE void Convert(const SplitAttention& a, const TileShared<T>& shared, int step) {
  constexpr int kPerStore = 16 / sizeof(T);
  const bool has_keys = step < *shared.num_pages;
  const int rows = has_keys ? a.query.kv.head_dim_k : kPageSize;
  const int columns = has_keys ? kPageSize : a.query.kv.head_dim_v;
  const C* from = reinterpret_cast<const C*>(shared.RawOf(step));
  T* to = shared.TileOf(step);
  for (int i = ThreadIndex(); i < rows * columns / kPerStore; i += NumThreads()) {
    const Split place = SplitIndex(i, columns / kPerStore);
    U32x4 vector;
    NSA_UNROLL
    for (int j = 0; j < 4; ++j) {
      const C* two = from + i * kPerStore + 2 * j;
      const uint32_t low = FromFloat<T>(ToFloat(two[0])).bits;
      vector.x[j] = low | uint32_t{FromFloat<T>(ToFloat(two[1])).bits} << 16;
    }
    *reinterpret_cast<U32x4*>(to + place.quotient * Pitch(columns) + place.remainder * kPerStore) =
        vector;
  }
}

}  // namespace nsa::kernels::cuda

#endif  // NSA_KERNELS_CUDA_MMA_COPIES_H_
