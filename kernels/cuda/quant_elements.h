#ifndef NSA_KERNELS_CUDA_QUANT_ELEMENTS_H_
#define NSA_KERNELS_CUDA_QUANT_ELEMENTS_H_

#include <cstdint>

#include "kernels/cuda/device.h"
#include "kernels/quant.h"

/// Single elements of quantised blocks, with the bits of DequantizeRow. Formats as in
/// kernels/affine.cc, which unpacks whole blocks.
namespace nsa::kernels::cuda {

NSA_DEVICE float LoadHalf(const uint8_t* source) {
  return ToFloat(F16{static_cast<uint16_t>(source[0] | source[1] << 8)});
}
/// Nibble i of 2·num_bytes: the low ones come first.
NSA_DEVICE int Nibble(const uint8_t* source, int num_bytes, int i) {
  return i < num_bytes ? source[i] & 0x0F : source[i - num_bytes] >> 4;
}
NSA_DEVICE int FifthBit(const uint8_t* bits, int i) { return (bits[i / 8] >> i % 8 & 1) << 4; }

/// Element i of a block of 32: Q4_0, Q4_1, Q5_0, Q5_1, Q8_0.
template <WeightType kType>
NSA_DEVICE float SmallBlockElement(const uint8_t* source, int i) {
  const float scale = LoadHalf(source);
  if constexpr (kType == WeightType::kQ8_0) {
    return scale * static_cast<float>(static_cast<int8_t>(source[2 + i]));
  } else if constexpr (kType == WeightType::kQ4_0) {
    return scale * static_cast<float>(Nibble(source + 2, 16, i) - 8);
  } else if constexpr (kType == WeightType::kQ5_0) {
    return scale * static_cast<float>((Nibble(source + 6, 16, i) | FifthBit(source + 2, i)) - 16);
  } else if constexpr (kType == WeightType::kQ4_1) {
    return scale * static_cast<float>(Nibble(source + 4, 16, i)) + LoadHalf(source + 2);
  } else {
    static_assert(kType == WeightType::kQ5_1);
    const int q = Nibble(source + 8, 16, i) | FifthBit(source + 4, i);
    return scale * static_cast<float>(q) + LoadHalf(source + 2);
  }
}

/// Scale and minimum of 32 columns, two of the 6-bit integers of Q4_K and Q5_K.
struct SmallScales {
  int scale;
  int minimum;
};
/// Number j of the eight in a block's 12 bytes. Also for the host.
constexpr SmallScales SmallScalesOf(const uint8_t* scales, int j) {
  if (j < 4) return {scales[j] & 0x3F, scales[j + 4] & 0x3F};
  return {(scales[j + 4] & 0x0F) | (scales[j - 4] >> 2 & 0x30),
          (scales[j + 4] >> 4) | (scales[j] >> 2 & 0x30)};
}

/// Element i of a block of 256 with 6-bit scales and minima: Q4_K, Q5_K.
template <WeightType kType>
NSA_DEVICE float KBlockElement(const uint8_t* source, int i) {
  const int j = i / 32;
  const SmallScales scales = SmallScalesOf(source + 4, j);
  const uint8_t* nibbles = source + (kType == WeightType::kQ4_K ? 16 : 48);
  int q = Nibble(nibbles + i / 64 * 32, 32, i % 64);
  if constexpr (kType == WeightType::kQ5_K) q |= (source[16 + i % 32] >> j & 1) << 4;
  const float d = LoadHalf(source) * static_cast<float>(scales.scale);
  return d * static_cast<float>(q) + -(LoadHalf(source + 2) * static_cast<float>(scales.minimum));
}

NSA_DEVICE float Q6KElement(const uint8_t* source, int i) {
  const int half = i / 128, row = i % 128 / 32, column = i % 32;
  const int nibble = source[half * 64 + row % 2 * 32 + column] >> (row / 2 * 4) & 0x0F;
  const int top = source[128 + half * 32 + column] >> (row * 2) & 0x03;
  const auto scale = static_cast<float>(static_cast<int8_t>(source[192 + i / 16]));
  return LoadHalf(source + 208) * scale * static_cast<float>((nibble | top << 4) - 32);
}

/// Element `column` of a row of `kType`.
template <WeightType kType>
NSA_DEVICE float QuantElement(const uint8_t* row, int64_t column) {
  if constexpr (kType == WeightType::kQ6_K) {
    return Q6KElement(row + column / 256 * 210, static_cast<int>(column % 256));
  } else if constexpr (kType == WeightType::kQ4_K || kType == WeightType::kQ5_K) {
    constexpr int kBytes = kType == WeightType::kQ4_K ? 144 : 176;
    return KBlockElement<kType>(row + column / 256 * kBytes, static_cast<int>(column % 256));
  } else {
    constexpr int kBytes = kType == WeightType::kQ4_0   ? 18
                           : kType == WeightType::kQ4_1 ? 20
                           : kType == WeightType::kQ5_0 ? 22
                           : kType == WeightType::kQ5_1 ? 24
                                                        : 34;
    return SmallBlockElement<kType>(row + column / 32 * kBytes, static_cast<int>(column % 32));
  }
}

}  // namespace nsa::kernels::cuda

#endif  // NSA_KERNELS_CUDA_QUANT_ELEMENTS_H_
