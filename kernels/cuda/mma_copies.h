#ifndef NSA_KERNELS_CUDA_MMA_COPIES_H_
#define NSA_KERNELS_CUDA_MMA_COPIES_H_

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "kernels/cuda/device.h"
#include "kernels/cuda/elements.h"
#include "kernels/cuda/mma_page_tile.h"
#include "kernels/cuda/mma_rows.h"

/// Pages of the cache, with elements C, on their way to the tiles of tensor cores.
namespace nsa::kernels::cuda {

/// What a tensor core multiplies: C, or float16, which holds every E4M3.
template <typename C>
using MmaType = std::conditional_t<std::is_same_v<C, F8E4M3>, F16, C>;

/// Starts the copies of a page's keys. Elements of 8 bits go to where Convert finds them.
template <typename C, typename T>
NSA_DEVICE void StartKeys(const SplitAttention& a, const TilePage& page,
                          const PageTileShared<T>& shared) {
  constexpr bool kIsRaw = !std::is_same_v<C, T>;
  constexpr int kPerCopy = 16 / sizeof(C), kCopies = kPageSize / kPerCopy;  // of a dimension
  constexpr int kPitch = kIsRaw ? kPageSize : Pitch(kPageSize);
  C* target;
  if constexpr (kIsRaw) {
    target = reinterpret_cast<C*>(shared.raw_keys);
  } else {
    target = shared.keys;
  }
  const C* keys = ElementsAt<C>(page.slot, 0);
  NSA_UNROLL_BY(2)
  for (int i = ThreadIndex(); i < a.query.kv.head_dim_k * kCopies; i += NumThreads()) {
    CopyAsync(target + i / kCopies * kPitch + i % kCopies * kPerCopy, keys + i * kPerCopy);
  }
  CommitCopies();
}

/// The same of its values, zeros for tokens that nobody reads.
template <typename C, typename T>
NSA_DEVICE void StartValues(const SplitAttention& a, const TilePage& page,
                            const PageTileShared<T>& shared) {
  constexpr bool kIsRaw = !std::is_same_v<C, T>;
  constexpr int kPerCopy = 16 / sizeof(C);
  const int dims = a.query.kv.head_dim_v, copies = dims / kPerCopy;  // of a token
  const int pitch = kIsRaw ? dims : Pitch(dims);
  C* target;
  if constexpr (kIsRaw) {
    target = reinterpret_cast<C*>(shared.raw_values);
  } else {
    target = shared.values;
  }
  const C* values = ElementsAt<C>(page.slot, a.rows.v_offset);
  NSA_UNROLL_BY(2)
  for (int i = ThreadIndex(); i < kPageSize * copies; i += NumThreads()) {
    const Split place = SplitIndex(i, copies);
    const int token = static_cast<int>(place.quotient);
    CopyAsync(target + token * pitch + place.remainder * kPerCopy, values + i * kPerCopy,
              token >= page.begin && token < page.end);
  }
  CommitCopies();
}

/// `rows` · `columns` elements of 8 bits as a tile, exactly. Nothing where they came as they are.
template <typename C, typename T>
NSA_DEVICE void Convert(const std::byte* raw, int rows, int columns, T* tile) {
  if constexpr (!std::is_same_v<C, T>) {
    constexpr int kPerStore = 16 / sizeof(T);
    const C* from = reinterpret_cast<const C*>(raw);
    NSA_UNROLL_BY(1)
    for (int i = ThreadIndex(); i < rows * columns / kPerStore; i += NumThreads()) {
      const Split place = SplitIndex(i, columns / kPerStore);
      U32x4 vector;
      NSA_UNROLL
      for (int j = 0; j < 4; ++j) {
        const C* two = from + i * kPerStore + 2 * j;
        const uint32_t low = FromFloat<T>(ToFloat(two[0])).bits;
        vector.x[j] = low | uint32_t{FromFloat<T>(ToFloat(two[1])).bits} << 16;
      }
      T* to = tile + place.quotient * Pitch(columns) + place.remainder * kPerStore;
      *reinterpret_cast<U32x4*>(to) = vector;
    }
    SyncThreads();
  }
}

}  // namespace nsa::kernels::cuda

#endif  // NSA_KERNELS_CUDA_MMA_COPIES_H_
