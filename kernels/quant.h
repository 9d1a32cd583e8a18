#ifndef NSA_KERNELS_QUANT_H_
#define NSA_KERNELS_QUANT_H_

#include <cstddef>
#include <cstdint>

namespace nsa::kernels {

/// Storage formats of weight matrices, as GGUF files hold them. Values equal `ggml_type`.
enum class WeightType : uint32_t {
  kF32 = 0,
  kF16 = 1,
  kQ4_0 = 2,
  kQ4_1 = 3,
  kQ5_0 = 6,
  kQ5_1 = 7,
  kQ8_0 = 8,
  kQ4_K = 12,
  kQ5_K = 13,
  kQ6_K = 14,
  kBF16 = 30,
};

/// One format's block: `num_elements` consecutive weights of a row in `num_bytes` bytes.
struct WeightBlock {
  const char* name;
  int num_elements;
  int num_bytes;
};

/// The block of `type`, or nullptr where `type` is none of the formats above.
const WeightBlock* FindWeightBlock(WeightType type);

/// Bytes of one row of `num_elements` weights; `num_elements` is a multiple of the block's.
int64_t RowBytes(WeightType type, int64_t num_elements);

/// Dequantises `num_elements` weights (a multiple of the block's) from `source` (any alignment) to
/// `target[num_elements]`, bit for bit as the Python package `gguf` does.
void DequantizeRow(WeightType type, const void* source, int64_t num_elements, float* target);

/// Rounds `num_elements` values to `type` (F32, F16, BF16, Q8_0 or Q4_0; a multiple of its block),
/// bit for bit as the Python package `gguf` does. A block with a value that is not finite becomes
/// NaN whole.
void QuantizeRow(WeightType type, const float* source, int64_t num_elements, void* target);

float F16ToF32(uint16_t value);
/// Rounds to nearest even; overflow gives infinity, NaN stays NaN.
uint16_t F32ToF16(float value);
float BF16ToF32(uint16_t value);
/// Rounds to nearest even; NaN stays NaN.
uint16_t F32ToBF16(float value);

}  // namespace nsa::kernels

#endif  // NSA_KERNELS_QUANT_H_
