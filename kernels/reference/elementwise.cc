#include <cmath>
#include <cstdint>

#include "kernels/check.h"
#include "kernels/reference/reference.h"

namespace nsa::kernels::reference {

void Embed(const EmbedParams& params) {
  const int64_t columns = params.table.num_columns;
  const int64_t row_bytes = RowBytes(params.table.type, columns);
  const auto* data = static_cast<const uint8_t*>(params.table.data);
  for (int64_t r = 0; r < params.num_rows; ++r) {
    NSA_CHECK(params.ids[r] >= 0 && params.ids[r] < params.table.num_rows);
    DequantizeRow(params.table.type, data + params.ids[r] * row_bytes, columns,
                  params.y + r * columns);
  }
}

void RmsNorm(const RmsNormParams& params) {
  for (int64_t r = 0; r < params.num_rows; ++r) {
    const float* x = params.x + r * params.x_stride;
    float* y = params.y + r * params.y_stride;
    float sum = 0;
    for (int64_t i = 0; i < params.num_columns; ++i) sum += x[i] * x[i];
    const float mean = sum / static_cast<float>(params.num_columns);
    const float inverse = 1.0f / std::sqrt(mean + params.epsilon);
    for (int64_t i = 0; i < params.num_columns; ++i) y[i] = x[i] * inverse * params.weight[i];
  }
}

void Swiglu(const SwigluParams& params) {
  for (int64_t r = 0; r < params.num_rows; ++r) {
    const float* gate = params.gate + r * params.gate_stride;
    const float* up = params.up + r * params.up_stride;
    float* y = params.y + r * params.y_stride;
    for (int64_t i = 0; i < params.num_columns; ++i) {
      y[i] = gate[i] / (1.0f + std::exp(-gate[i])) * up[i];
    }
  }
}

}  // namespace nsa::kernels::reference
