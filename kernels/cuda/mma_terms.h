#ifndef NSA_KERNELS_CUDA_MMA_TERMS_H_
#define NSA_KERNELS_CUDA_MMA_TERMS_H_

#include <cstdint>

#include "kernels/cuda/device.h"
#include "kernels/cuda/elements.h"

/// Queries and weights as tensor cores take them: sums of 16-bit floats.
namespace nsa::kernels::cuda {

/// The power of two that brings `largest` to [2¹³, 2¹⁴), and its inverse; 1 where it is not finite.
/// So a float16 holds a query that was turned, and its further terms.
struct QueryScale {
  float scale;
  float inverse;
};
NSA_DEVICE QueryScale QueryScaleOf(float largest) {
  constexpr int kBias = 127, kNotFinite = 255, kLargest = 253;
  const int exponent = static_cast<int>(FloatBits(largest) >> 23 & 0xFF);
  int scale = exponent == kNotFinite ? kBias : 2 * kBias + 13 - exponent;
  if (scale > kLargest) scale = kLargest;
  return {FloatOfBits(static_cast<uint32_t>(scale) << 23),
          FloatOfBits(static_cast<uint32_t>(2 * kBias - scale) << 23)};
}

/// x as a sum of `count` 16-bit floats, kMost or fewer, `step` elements apart.
template <int kMost, typename T>
NSA_DEVICE void StoreTerms(float x, int count, int step, T* target) {
  NSA_UNROLL
  for (int term = 0; term < kMost; ++term) {
    if (term >= count) return;
    const T rounded = FromFloat<T>(x);
    target[term * step] = rounded;
    x -= ToFloat(rounded);
  }
}

/// Weights are held times this; the most that a float16 can be is twice as much.
inline constexpr float kWeightScale = 32768;

/// Never −0: keys that a line does not read may have added 0 to it.
NSA_DEVICE float Unscaled(float sum) { return sum * (1 / kWeightScale) + 0.0f; }

}  // namespace nsa::kernels::cuda

#endif  // NSA_KERNELS_CUDA_MMA_TERMS_H_
