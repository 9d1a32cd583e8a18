#include "engine/weights/weight_reader.h"

#include <cstring>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "engine/text.h"
#include "kernels/quant.h"

namespace nsa::engine {
namespace {

absl::StatusOr<const WeightTensor*> FindShaped(const WeightMap& weights, std::string_view name,
                                               const std::vector<int64_t>& shape) {
  const WeightTensor* tensor = weights.Find(name);
  if (tensor == nullptr) {
    return absl::NotFoundError(
        absl::StrCat(weights.origin(), ": tensor '", View(name), "' is missing"));
  }
  if (tensor->shape != shape) {
    return absl::InvalidArgumentError(absl::StrCat(
        weights.origin(), ": tensor '", View(name), "' has shape [",
        absl::StrJoin(tensor->shape, ", "), "], expected [", absl::StrJoin(shape, ", "), "]"));
  }
  if (tensor->type == WeightTensor::kUnreadable) {
    return absl::InvalidArgumentError(absl::StrCat(weights.origin(), ": tensor '", View(name),
                                                   "' has type ", View(tensor->type_name),
                                                   ", expected F32, F16 or BF16"));
  }
  return tensor;
}

}  // namespace

absl::StatusOr<kernels::WeightMatrix> ReadMatrix(const WeightMap& weights, std::string_view name,
                                                 int64_t num_rows, int64_t num_columns) {
  const auto tensor = FindShaped(weights, name, {num_rows, num_columns});
  if (!tensor.ok()) return tensor.status();
  return kernels::WeightMatrix{.data = (*tensor)->data,
                               .type = (*tensor)->type,
                               .num_rows = num_rows,
                               .num_columns = num_columns};
}

absl::StatusOr<std::vector<float>> ReadVector(const WeightMap& weights, std::string_view name,
                                              int64_t num_elements) {
  const auto tensor = FindShaped(weights, name, {num_elements});
  if (!tensor.ok()) return tensor.status();
  std::vector<float> values(static_cast<size_t>(num_elements));
  kernels::DequantizeRow((*tensor)->type, (*tensor)->data, num_elements, values.data());
  return values;
}

absl::StatusOr<std::vector<float>> ReadMatrixFloats(const WeightMap& weights, std::string_view name,
                                                    int64_t num_rows, int64_t num_columns) {
  const auto matrix = ReadMatrix(weights, name, num_rows, num_columns);
  if (!matrix.ok()) return matrix.status();
  const int64_t row_bytes = kernels::RowBytes(matrix->type, num_columns);
  std::vector<float> values(static_cast<size_t>(num_rows * num_columns));
  for (int64_t r = 0; r < num_rows; ++r) {
    kernels::DequantizeRow(matrix->type,
                           static_cast<const std::byte*>(matrix->data) + r * row_bytes, num_columns,
                           values.data() + r * num_columns);
  }
  return values;
}

OwnedMatrix PermuteRows(const kernels::WeightMatrix& matrix,
                        const std::vector<int64_t>& source_rows) {
  const int64_t row_bytes = kernels::RowBytes(matrix.type, matrix.num_columns);
  const auto* source = static_cast<const std::byte*>(matrix.data);
  OwnedMatrix result;
  result.bytes.resize(source_rows.size() * static_cast<size_t>(row_bytes));
  for (size_t r = 0; r < source_rows.size(); ++r) {
    std::memcpy(result.bytes.data() + r * static_cast<size_t>(row_bytes),
                source + source_rows[r] * row_bytes, static_cast<size_t>(row_bytes));
  }
  result.matrix = matrix;
  result.matrix.data = result.bytes.data();
  result.matrix.num_rows = static_cast<int64_t>(source_rows.size());
  return result;
}

OwnedMatrix ConvertMatrix(const kernels::WeightMatrix& matrix, kernels::WeightType type) {
  const int64_t columns = matrix.num_columns;
  const int64_t from_bytes = kernels::RowBytes(matrix.type, columns);
  const int64_t to_bytes = kernels::RowBytes(type, columns);
  OwnedMatrix result;
  result.bytes.resize(static_cast<size_t>(matrix.num_rows * to_bytes));
  std::vector<float> row(static_cast<size_t>(columns));
  for (int64_t r = 0; r < matrix.num_rows; ++r) {
    kernels::DequantizeRow(matrix.type, static_cast<const std::byte*>(matrix.data) + r * from_bytes,
                           columns, row.data());
    kernels::QuantizeRow(type, row.data(), columns, result.bytes.data() + r * to_bytes);
  }
  result.matrix = matrix;
  result.matrix.data = result.bytes.data();
  result.matrix.type = type;
  return result;
}

}  // namespace nsa::engine
