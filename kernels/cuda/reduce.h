#ifndef NSA_KERNELS_CUDA_REDUCE_H_
#define NSA_KERNELS_CUDA_REDUCE_H_

#include <cstdint>

#include "kernels/cuda/device.h"

/// Reductions in one fixed order, whose result every lane gets.
namespace nsa::kernels::cuda {

/// A tree over the warp. Both sides of a pair add the same two numbers, so that all lanes end with
/// the same bits.
NSA_DEVICE float WarpSum(float x) {
  for (int step = kWarpSize / 2; step > 0; step /= 2) x += ShuffleXor(x, step);
  return x;
}

/// Exact, whatever the order.
NSA_DEVICE int64_t WarpSum(int64_t x) {
  for (int step = kWarpSize / 2; step > 0; step /= 2) {
    const uint32_t low = ShuffleXor(static_cast<uint32_t>(x), step);
    const uint32_t high = ShuffleXor(static_cast<uint32_t>(x >> 32), step);
    x += static_cast<int64_t>(uint64_t{high} << 32 | low);
  }
  return x;
}

/// NaN where one is.
NSA_DEVICE float MaxOrNan(float x, float y) { return x != x || x > y ? x : y; }
NSA_DEVICE float WarpMaxOrNan(float x) {
  for (int step = kWarpSize / 2; step > 0; step /= 2) x = MaxOrNan(x, ShuffleXor(x, step));
  return x;
}

}  // namespace nsa::kernels::cuda

#endif  // NSA_KERNELS_CUDA_REDUCE_H_
