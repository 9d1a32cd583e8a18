#ifndef NSA_KERNELS_CUDA_INT8_ROW_H_
#define NSA_KERNELS_CUDA_INT8_ROW_H_

#include "kernels/cuda/device.h"

namespace nsa::kernels::cuda {

/// What a row of kInt8 is multiplied by, and its scale: Int8RowScale on the device.
struct RowScale {
  float inverse;
  float scale;
};
NSA_DEVICE RowScale ScaleOf(float largest) {
  constexpr float kInt8Max = 127;
  if (!(largest < Infinity())) return {0, NotANumber()};
  const float inverse = kInt8Max / largest;
  return {inverse < Infinity() ? inverse : 0, largest / kInt8Max};
}
/// An element of such a row.
NSA_DEVICE int8_t RoundToInt8(float x, const RowScale& of_row) {
  return static_cast<int8_t>(of_row.inverse == 0 ? 0 : RoundEven(x * of_row.inverse));
}

}  // namespace nsa::kernels::cuda

#endif  // NSA_KERNELS_CUDA_INT8_ROW_H_
