#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <vector>

#include "kernels/activation.h"
#include "kernels/affine.h"
#include "kernels/check.h"
#include "kernels/reference/reference.h"

namespace nsa::kernels::reference {
namespace {

/// The file's rows, kept as they are.
struct Part {
  WeightType type;
  int64_t num_rows;
  std::vector<uint8_t> bytes;
};

class ReferenceMatrix final : public PackedMatrix {
 public:
  int64_t num_rows() const override { return num_rows_; }
  int64_t num_columns() const override { return num_columns_; }
  int64_t num_bytes() const override {
    int64_t total = 0;
    for (const Part& part : parts_) total += static_cast<int64_t>(part.bytes.size());
    return total;
  }

  int64_t num_rows_ = 0;
  int64_t num_columns_ = 0;
  std::vector<Part> parts_;
};

/// Σ over groups in rising order of one weight row with one quantised activation row.
float QuantisedDot(WeightType type, const uint8_t* row, const QuantisedRow& x, int64_t columns) {
  const AffineFormat format = FindAffineFormat(type);
  const WeightBlock& block = *FindWeightBlock(type);
  AffineBlock affine;
  float sum = 0;
  for (int64_t first = 0; first < columns; first += block.num_elements) {
    UnpackAffine(type, row + first / block.num_elements * block.num_bytes, affine);
    for (int g = 0; g < block.num_elements / format.group_size; ++g) {
      const int64_t begin = first + int64_t{g} * format.group_size;
      int32_t product = 0, activations = 0;
      for (int i = 0; i < format.group_size; ++i) {
        const int32_t value = x.q[static_cast<size_t>(begin + i)];
        product += affine.q[g * format.group_size + i] * value;
        activations += value;
      }
      const float x_scale = x.scale[static_cast<size_t>(begin / kActivationGroup)];
      product -= format.symmetric_offset * activations;
      sum = std::fma(static_cast<float>(product), affine.scale[g] * x_scale, sum);
      if (format.symmetric_offset == 0) {
        sum = std::fma(affine.minimum[g], x_scale * static_cast<float>(activations), sum);
      }
    }
  }
  return sum;
}

float DenseDot(const std::vector<float>& weights, const float* x) {
  float sum = 0;
  for (size_t i = 0; i < weights.size(); ++i) sum = std::fma(weights[i], x[i], sum);
  return sum;
}

}  // namespace

std::unique_ptr<PackedMatrix> Pack(std::span<const WeightMatrix> parts) {
  auto packed = std::make_unique<ReferenceMatrix>();
  for (const WeightMatrix& part : parts) {
    const auto bytes = static_cast<size_t>(part.num_rows * RowBytes(part.type, part.num_columns));
    const auto* data = static_cast<const uint8_t*>(part.data);
    packed->parts_.push_back({part.type, part.num_rows, {data, data + bytes}});
    packed->num_rows_ += part.num_rows;
    packed->num_columns_ = part.num_columns;
  }
  return packed;
}

void Gemm(const GemmParams& params) {
  const auto& w = static_cast<const ReferenceMatrix&>(*params.w);
  const int64_t columns = w.num_columns();
  QuantisedRow quantised;
  std::vector<float> weights(static_cast<size_t>(columns));
  for (int64_t r = 0; r < params.num_rows; ++r) {
    const float* x = params.x + r * params.x_stride;
    float* y = params.y + r * params.y_stride;
    if (columns % kActivationGroup == 0) QuantiseRow(x, columns, quantised);
    int64_t n = 0;
    for (const Part& part : w.parts_) {
      const int64_t row_bytes = RowBytes(part.type, columns);
      const bool dense = FindWeightBlock(part.type)->num_elements == 1;
      for (int64_t row = 0; row < part.num_rows; ++row, ++n) {
        const uint8_t* bytes = part.bytes.data() + row * row_bytes;
        if (dense) DequantizeRow(part.type, bytes, columns, weights.data());
        float sum =
            dense ? DenseDot(weights, x) : QuantisedDot(part.type, bytes, quantised, columns);
        if (params.bias != nullptr) sum += params.bias[n];
        sum *= params.scale;
        y[n] = params.accumulate ? y[n] + sum : sum;
      }
    }
  }
}

}  // namespace nsa::kernels::reference
