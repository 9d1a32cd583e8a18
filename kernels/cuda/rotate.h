#ifndef NSA_KERNELS_CUDA_ROTATE_H_
#define NSA_KERNELS_CUDA_ROTATE_H_

#include <cstdint>

#include "kernels/cuda/device.h"
#include "kernels/ops/attention.h"

/// Rotary embedding of one pair of dimensions (i, i + rotary_dim/2), with the reference's products
/// and sums, so that bits agree.
namespace nsa::kernels::cuda {

struct Pair {
  float a;
  float b;
};

NSA_DEVICE Pair Rotate(Pair x, float cosine, float sine) {
  return {x.a * cosine - x.b * sine, x.b * cosine + x.a * sine};
}
/// Pair i by an offset inside a page, forth (+1) or back (−1).
NSA_DEVICE Pair RotateFine(const RopeView& rope, int64_t offset, int i, int direction, Pair x) {
  const int64_t at = offset * (rope.rotary_dim / 2) + i;
  return Rotate(x, rope.fine_cos[at], static_cast<float>(direction) * rope.fine_sin[at]);
}
/// Pair i by a whole number of pages.
NSA_DEVICE Pair RotateCoarse(const RopeView& rope, int64_t pages, int i, int direction, Pair x) {
  DeviceCheck(pages >= 0 && pages < rope.num_coarse);
  const int64_t at = pages * (rope.rotary_dim / 2) + i;
  return Rotate(x, rope.coarse_cos[at], static_cast<float>(direction) * rope.coarse_sin[at]);
}

}  // namespace nsa::kernels::cuda

#endif  // NSA_KERNELS_CUDA_ROTATE_H_
