#include "kernels/quant.h"

#include <bit>
#include <cmath>
#include <cstring>

#include "kernels/affine.h"
#include "kernels/check.h"

namespace nsa::kernels {
namespace {

uint16_t LoadU16(const uint8_t* source) {
  uint16_t value;
  std::memcpy(&value, source, sizeof(value));
  return value;
}

struct NamedBlock {
  WeightType type;
  WeightBlock block;
};

constexpr NamedBlock kBlocks[] = {
    {WeightType::kF32, {"F32", 1, 4}},       {WeightType::kF16, {"F16", 1, 2}},
    {WeightType::kBF16, {"BF16", 1, 2}},     {WeightType::kQ4_0, {"Q4_0", 32, 18}},
    {WeightType::kQ4_1, {"Q4_1", 32, 20}},   {WeightType::kQ5_0, {"Q5_0", 32, 22}},
    {WeightType::kQ5_1, {"Q5_1", 32, 24}},   {WeightType::kQ8_0, {"Q8_0", 32, 34}},
    {WeightType::kQ4_K, {"Q4_K", 256, 144}}, {WeightType::kQ5_K, {"Q5_K", 256, 176}},
    {WeightType::kQ6_K, {"Q6_K", 256, 210}},
};

/// One plain element as float32.
float DenseElement(WeightType type, const uint8_t* source) {
  if (type == WeightType::kF16) return F16ToF32(LoadU16(source));
  if (type == WeightType::kBF16) return BF16ToF32(LoadU16(source));
  float value;
  std::memcpy(&value, source, sizeof(value));
  return value;
}

}  // namespace

const WeightBlock* FindWeightBlock(WeightType type) {
  for (const NamedBlock& named : kBlocks) {
    if (named.type == type) return &named.block;
  }
  return nullptr;
}

int64_t RowBytes(WeightType type, int64_t num_elements) {
  const WeightBlock* block = FindWeightBlock(type);
  NSA_CHECK(block != nullptr && num_elements % block->num_elements == 0);
  return num_elements / block->num_elements * block->num_bytes;
}

void DequantizeRow(WeightType type, const void* source, int64_t num_elements, float* target) {
  const WeightBlock* block = FindWeightBlock(type);
  NSA_CHECK(block != nullptr && num_elements % block->num_elements == 0);
  const auto* bytes = static_cast<const uint8_t*>(source);
  if (block->num_elements == 1) {
    for (int64_t i = 0; i < num_elements; ++i) {
      target[i] = DenseElement(type, bytes + i * block->num_bytes);
    }
    return;
  }
  const AffineFormat format = FindAffineFormat(type);
  AffineBlock affine;
  for (int64_t b = 0; b < num_elements / block->num_elements; ++b) {
    UnpackAffine(type, bytes + b * block->num_bytes, affine);
    for (int i = 0; i < block->num_elements; ++i, ++target) {
      const float scale = affine.scale[i / format.group_size];
      // A symmetric format has no minimum: scale·(q − offset) keeps the sign of a zero as well.
      *target =
          format.symmetric_offset > 0
              ? scale * static_cast<float>(affine.q[i] - format.symmetric_offset)
              : scale * static_cast<float>(affine.q[i]) + affine.minimum[i / format.group_size];
    }
  }
}

float F16ToF32(uint16_t value) {
  const uint32_t sign = static_cast<uint32_t>(value & 0x8000u) << 16;
  const uint32_t exponent = (value >> 10) & 0x1Fu;
  const uint32_t mantissa = value & 0x3FFu;
  if (exponent == 0x1F) return std::bit_cast<float>(sign | 0x7F800000u | (mantissa << 13));
  if (exponent != 0) {
    return std::bit_cast<float>(sign | ((exponent + 112) << 23) | (mantissa << 13));
  }
  // Subnormal: mantissa · 2^−24, exact in float32.
  const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
  return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(magnitude));
}

uint16_t F32ToF16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const auto sign = static_cast<uint16_t>((bits >> 16) & 0x8000u);
  const uint32_t magnitude = bits & 0x7FFFFFFFu;
  if (magnitude > 0x7F800000u) return sign | 0x7E00u;   // NaN
  if (magnitude >= 0x477FF000u) return sign | 0x7C00u;  // rounds to 65,536 or more
  if (magnitude < 0x38800000u) {                        // below 2^−14: subnormal
    const float scaled = std::bit_cast<float>(magnitude) * 0x1p24f;
    return sign | static_cast<uint16_t>(std::nearbyint(scaled));
  }
  const uint32_t rounded = magnitude + 0xFFFu + ((magnitude >> 13) & 1u);
  return sign | static_cast<uint16_t>((rounded >> 13) - (112u << 10));
}

float BF16ToF32(uint16_t value) { return std::bit_cast<float>(static_cast<uint32_t>(value) << 16); }

uint16_t F32ToBF16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7FFFFFFFu) > 0x7F800000u) return static_cast<uint16_t>((bits >> 16) | 0x40u);
  return static_cast<uint16_t>((bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16);
}

}  // namespace nsa::kernels
