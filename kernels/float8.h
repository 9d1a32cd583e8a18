#ifndef NSA_KERNELS_FLOAT8_H_
#define NSA_KERNELS_FLOAT8_H_

#include <bit>
#include <cstdint>

/// 8-bit floats of the KV cache: E4M3 as the Open Compute Project's "OCP 8-bit Floating Point
/// Specification" has it: a sign, four bits of exponent with bias 7, three of mantissa; the largest
/// is 448, the smallest 2⁻⁹; no infinity; NaN has all bits but the sign set.
namespace nsa::kernels {

struct F8E4M3 {
  uint8_t bits;
};

constexpr float F8E4M3ToF32(F8E4M3 x) {
  const uint32_t magnitude = x.bits & 0x7Fu, sign = uint32_t{x.bits & 0x80u} << 24;
  if (magnitude == 0x7F) return std::bit_cast<float>(sign | 0x7FC00000u);
  if (magnitude < 8) {  // in units of 2⁻⁹
    const float small = static_cast<float>(magnitude) * (1.0f / 512);
    return std::bit_cast<float>(std::bit_cast<uint32_t>(small) | sign);
  }
  return std::bit_cast<float>(sign | ((magnitude << 20) + (uint32_t{127 - 7} << 23)));
}

/// Rounds to nearest even. Finite magnitudes beyond 448 become 448; what is not finite becomes NaN,
/// so that whatever reads it is NaN too.
constexpr F8E4M3 F32ToF8E4M3(float value) {
  constexpr uint32_t kInfinity = 0x7F800000, kLeastNormal = uint32_t{127 - 6} << 23;
  const uint32_t bits = std::bit_cast<uint32_t>(value), magnitude = bits & 0x7FFFFFFFu;
  uint32_t code = 0x7F;
  if (magnitude < kLeastNormal) {
    // 2²³ + x is rounded to a whole number, which stands in its lowest bits.
    const float whole = std::bit_cast<float>(magnitude) * 512 + 8388608.0f;
    code = std::bit_cast<uint32_t>(whole) & 0xFu;
  } else if (magnitude < kInfinity) {
    const uint32_t rounded = magnitude + 0x7FFFFu + ((magnitude >> 20) & 1u);
    code = (rounded >> 20) - (uint32_t{127 - 7} << 3);
    if (code > 0x7E) code = 0x7E;
  }
  return {static_cast<uint8_t>(code | bits >> 31 << 7)};
}

}  // namespace nsa::kernels

#endif  // NSA_KERNELS_FLOAT8_H_
