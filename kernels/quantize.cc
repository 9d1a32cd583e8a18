#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/check.h"
#include "kernels/quant.h"

namespace nsa::kernels {
namespace {

constexpr int kBlock = 32;

void StoreScale(float scale, uint8_t* target) {
  const uint16_t bits = F32ToF16(scale);
  std::memcpy(target, &bits, sizeof(bits));
}

/// The element with the largest magnitude, the first of several; NaN where one is not finite.
float Extreme(const float* values) {
  float extreme = 0;
  for (int i = 0; i < kBlock; ++i) {
    if (!std::isfinite(values[i])) return std::numeric_limits<float>::quiet_NaN();
    if (std::abs(values[i]) > std::abs(extreme)) extreme = values[i];
  }
  return extreme;
}

/// 1/scale; 0 where the block is to become all zeros, or NaN by its scale alone.
float Inverse(float scale) { return scale == 0 || !std::isfinite(scale) ? 0 : 1 / scale; }

void QuantizeQ8(const float* values, uint8_t* target) {
  const float scale = std::abs(Extreme(values)) / 127;
  const float inverse = Inverse(scale);
  StoreScale(scale, target);
  for (int i = 0; i < kBlock; ++i) {
    // std::round goes away from zero at halves, as the format's reference does.
    const float q = inverse == 0 ? 0 : std::round(values[i] * inverse);
    target[2 + i] = static_cast<uint8_t>(static_cast<int8_t>(std::clamp(q, -128.0f, 127.0f)));
  }
}

void QuantizeQ4(const float* values, uint8_t* target) {
  const float scale = Extreme(values) / -8;
  const float inverse = Inverse(scale);
  StoreScale(scale, target);
  const auto level = [&](int i) {
    if (inverse == 0) return uint8_t{8};
    return static_cast<uint8_t>(std::clamp(std::trunc(values[i] * inverse + 8.5f), 0.0f, 15.0f));
  };
  for (int i = 0; i < kBlock / 2; ++i) {
    target[2 + i] = static_cast<uint8_t>(level(i) | level(i + kBlock / 2) << 4);
  }
}

}  // namespace

void QuantizeRow(WeightType type, const float* source, int64_t num_elements, void* target) {
  auto* bytes = static_cast<uint8_t*>(target);
  if (type == WeightType::kF32) {
    std::memcpy(bytes, source, static_cast<size_t>(num_elements) * sizeof(float));
    return;
  }
  if (type == WeightType::kF16 || type == WeightType::kBF16) {
    for (int64_t i = 0; i < num_elements; ++i) {
      const uint16_t bits = type == WeightType::kF16 ? F32ToF16(source[i]) : F32ToBF16(source[i]);
      std::memcpy(bytes + 2 * i, &bits, sizeof(bits));
    }
    return;
  }
  NSA_CHECK((type == WeightType::kQ8_0 || type == WeightType::kQ4_0) && num_elements % kBlock == 0);
  const int block_bytes = FindWeightBlock(type)->num_bytes;
  for (int64_t b = 0; b < num_elements / kBlock; ++b) {
    if (type == WeightType::kQ8_0) {
      QuantizeQ8(source + b * kBlock, bytes + b * block_bytes);
    } else {
      QuantizeQ4(source + b * kBlock, bytes + b * block_bytes);
    }
  }
}

}  // namespace nsa::kernels
