#include "kernels/affine.h"

#include <cstring>

#include "kernels/check.h"

namespace nsa::kernels {
namespace {

float LoadHalf(const uint8_t* source) {
  uint16_t value;
  std::memcpy(&value, source, sizeof(value));
  return F16ToF32(value);
}

/// 16 bytes hold 32 nibbles: the low ones first, then the high ones.
void UnpackNibbles(const uint8_t* source, int num_bytes, uint8_t* q) {
  for (int i = 0; i < num_bytes; ++i) {
    q[i] = source[i] & 0x0F;
    q[i + num_bytes] = source[i] >> 4;
  }
}

/// Bit i of the 32-bit field is bit 4 of q[i].
void AddFifthBits(const uint8_t* source, uint8_t* q) {
  uint32_t bits;
  std::memcpy(&bits, source, sizeof(bits));
  for (int i = 0; i < 32; ++i) q[i] |= static_cast<uint8_t>(((bits >> i) & 1u) << 4);
}

/// The eight 6-bit scales and minima of a Q4_K or Q5_K block, from 12 bytes.
void UnpackKScales(const uint8_t* source, AffineBlock& block) {
  const float d = LoadHalf(source), d_minimum = LoadHalf(source + 2);
  const uint8_t* scales = source + 4;
  for (int i = 0; i < 8; ++i) {
    int scale, minimum;
    if (i < 4) {
      scale = scales[i] & 0x3F;
      minimum = scales[i + 4] & 0x3F;
    } else {
      scale = (scales[i + 4] & 0x0F) | ((scales[i - 4] >> 2) & 0x30);
      minimum = (scales[i + 4] >> 4) | ((scales[i] >> 2) & 0x30);
    }
    block.scale[i] = d * static_cast<float>(scale);
    block.minimum[i] = -(d_minimum * static_cast<float>(minimum));
  }
}

void UnpackQ6K(const uint8_t* source, AffineBlock& block) {
  const uint8_t* low = source;         // [2 halves][64]: two rows of 32 in each nibble
  const uint8_t* high = source + 128;  // [2 halves][32]: four rows of 2 bits
  const float d = LoadHalf(source + 208);
  for (int half = 0; half < 2; ++half) {
    for (int row = 0; row < 4; ++row) {
      for (int i = 0; i < 32; ++i) {
        const int nibble = low[half * 64 + (row & 1) * 32 + i] >> (row / 2 * 4) & 0x0F;
        const int top = high[half * 32 + i] >> (row * 2) & 0x03;
        block.q[half * 128 + row * 32 + i] = static_cast<uint8_t>(nibble | top << 4);
      }
    }
  }
  for (int i = 0; i < 16; ++i) {
    block.scale[i] = d * static_cast<float>(static_cast<int8_t>(source[192 + i]));
  }
}

}  // namespace

AffineFormat FindAffineFormat(WeightType type) {
  switch (type) {
    case WeightType::kQ4_0:
      return {.num_bits = 4, .symmetric_offset = 8};
    case WeightType::kQ4_1:
      return {.num_bits = 4};
    case WeightType::kQ5_0:
      return {.symmetric_offset = 16};
    case WeightType::kQ5_1:
      return {};
    case WeightType::kQ8_0:
      return {.symmetric_offset = 128};
    case WeightType::kQ4_K:
      return {.num_bits = 4, .half_scales = false};
    case WeightType::kQ5_K:
      return {.half_scales = false};
    case WeightType::kQ6_K:
      return {.group_size = 16, .symmetric_offset = 32, .half_scales = false};
    default:
      NSA_CHECK(false && "not a quantised type");
  }
}

void UnpackAffine(WeightType type, const uint8_t* source, AffineBlock& block) {
  switch (type) {
    case WeightType::kQ4_0:
      UnpackNibbles(source + 2, 16, block.q);
      break;
    case WeightType::kQ4_1:
      UnpackNibbles(source + 4, 16, block.q);
      block.minimum[0] = LoadHalf(source + 2);
      break;
    case WeightType::kQ5_0:
      UnpackNibbles(source + 6, 16, block.q);
      AddFifthBits(source + 2, block.q);
      break;
    case WeightType::kQ5_1:
      UnpackNibbles(source + 8, 16, block.q);
      AddFifthBits(source + 4, block.q);
      block.minimum[0] = LoadHalf(source + 2);
      break;
    case WeightType::kQ8_0:
      for (int i = 0; i < 32; ++i) block.q[i] = static_cast<uint8_t>(source[2 + i] ^ 0x80);
      break;
    case WeightType::kQ4_K:
      UnpackKScales(source, block);
      for (int g = 0; g < 4; ++g) UnpackNibbles(source + 16 + g * 32, 32, block.q + g * 64);
      return;
    case WeightType::kQ5_K:
      UnpackKScales(source, block);
      for (int g = 0; g < 4; ++g) UnpackNibbles(source + 48 + g * 32, 32, block.q + g * 64);
      for (int i = 0; i < 256; ++i) {
        block.q[i] |= static_cast<uint8_t>((source[16 + i % 32] >> (i / 32) & 1) << 4);
      }
      return;
    case WeightType::kQ6_K:
      UnpackQ6K(source, block);
      return;
    default:
      NSA_CHECK(false && "not a quantised type");
  }
  block.scale[0] = LoadHalf(source);
}

}  // namespace nsa::kernels
