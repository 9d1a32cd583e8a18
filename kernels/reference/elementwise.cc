#include <algorithm>
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
    float* y = params.y + r * columns;
    const bool is_sampled = params.places != nullptr && params.places[r] >= 0;
    const int32_t id = is_sampled ? params.sampled[params.places[r]] : params.ids[r];
    if (is_sampled && id < 0) {
      std::fill_n(y, columns, 0.0f);
      continue;
    }
    NSA_CHECK(id >= 0 && id < params.table.num_rows);
    DequantizeRow(params.table.type, data + id * row_bytes, columns, y);
    if (params.scale == 1) continue;
    for (int64_t i = 0; i < columns; ++i) y[i] *= params.scale;
  }
}

void RmsNorm(const RmsNormParams& params) {
  for (int64_t i = 0; i < params.num_rows * params.num_groups; ++i) {
    const int64_t row = i / params.num_groups, first = i % params.num_groups * params.num_columns;
    const float* x = params.x + row * params.x_stride + first;
    float* y = params.y + row * params.y_stride + first;
    float sum = 0;
    for (int64_t c = 0; c < params.num_columns; ++c) sum += x[c] * x[c];
    const float mean = sum / static_cast<float>(params.num_columns);
    const float inverse = 1.0f / std::sqrt(mean + params.epsilon);
    for (int64_t c = 0; c < params.num_columns; ++c) {
      const float normed = x[c] * inverse * params.weight[c];
      y[c] = params.accumulate ? y[c] + normed : normed;
    }
  }
}

float Activate(GateActivation activation, float gate) {
  if (activation == GateActivation::kSilu) return gate / (1.0f + std::exp(-gate));
  constexpr float kSqrt2OverPi = 0.79788456f;
  return 0.5f * gate * (1.0f + std::tanh(kSqrt2OverPi * (gate + 0.044715f * gate * gate * gate)));
}

void Glu(const GluParams& params) {
  for (int64_t r = 0; r < params.num_rows; ++r) {
    const float* gate = params.gate + r * params.gate_stride;
    float* y = params.y + r * params.y_stride;
    for (int64_t i = 0; i < params.num_columns; ++i) {
      const float activated = Activate(params.activation, gate[i]);
      y[i] = params.up == nullptr ? activated : activated * params.up[r * params.up_stride + i];
    }
  }
}

}  // namespace nsa::kernels::reference
