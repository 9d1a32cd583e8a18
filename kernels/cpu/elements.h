#ifndef NSA_KERNELS_CPU_ELEMENTS_H_
#define NSA_KERNELS_CPU_ELEMENTS_H_

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kernels/float8.h"
#include "kernels/quant.h"
#include "kernels/tensor.h"

/// Elements of a cache one by one, and rotations, in plain loops: for operators that make rows once
/// which are read for ever. They do the reference's rounding steps, so that both give the same
/// bits.
namespace nsa::kernels::cpu {

struct Bf16 {
  uint16_t bits;
};
struct F16 {
  uint16_t bits;
};
inline float ToFloat(float x) { return x; }
inline float ToFloat(int8_t x) { return x; }
inline float ToFloat(Bf16 x) { return std::bit_cast<float>(uint32_t{x.bits} << 16); }
inline float ToFloat(F16 x) { return F16ToF32(x.bits); }
inline float ToFloat(F8E4M3 x) { return F8E4M3ToF32(x); }

/// Calls body(T()) with the element type of `dtype`.
template <typename Body>
void WithElementType(DType dtype, Body&& body) {
  switch (dtype) {
    case DType::kF32:
      return body(float());
    case DType::kF16:
      return body(F16());
    case DType::kBF16:
      return body(Bf16());
    case DType::kInt8:
      return body(int8_t());
    case DType::kF8E4M3:
      return body(F8E4M3());
  }
}

/// Rounds x to nearest even; of compressed rows, so not for 8 bits.
inline void StoreElement(DType dtype, float x, std::byte* base, int64_t index) {
  if (dtype == DType::kF32) {
    std::memcpy(base + index * 4, &x, 4);
    return;
  }
  const uint16_t bits = dtype == DType::kF16 ? F32ToF16(x) : F32ToBF16(x);
  std::memcpy(base + index * 2, &bits, 2);
}

/// Rotates x by one row of a rotary table; `sign` −1 turns back.
inline void RotateRow(const float* cosines, const float* sines, int half, float sign, float* x) {
  for (int i = 0; i < half; ++i) {
    const float sine = sign * sines[i];
    const float a = x[i];
    const float b = x[i + half];
    x[i] = a * cosines[i] - b * sine;
    x[i + half] = b * cosines[i] + a * sine;
  }
}

}  // namespace nsa::kernels::cpu

#endif  // NSA_KERNELS_CPU_ELEMENTS_H_
