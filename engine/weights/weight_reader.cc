#include "engine/weights/weight_reader.h"

#include <cstring>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "engine/text.h"
#include "kernels/quant.h"

namespace nsa::engine {
namespace {

absl::StatusOr<const GgufTensor*> FindShaped(const GgufFile& file, std::string_view name,
                                             const std::vector<int64_t>& shape) {
  const GgufTensor* tensor = file.FindTensor(name);
  if (tensor == nullptr) {
    return absl::NotFoundError(absl::StrCat(file.path(), ": tensor '", View(name), "' is missing"));
  }
  if (tensor->shape != shape) {
    return absl::InvalidArgumentError(absl::StrCat(
        file.path(), ": tensor '", View(name), "' has shape [", absl::StrJoin(tensor->shape, ", "),
        "], expected [", absl::StrJoin(shape, ", "), "]"));
  }
  return tensor;
}

}  // namespace

absl::StatusOr<kernels::WeightMatrix> ReadMatrix(const GgufFile& file, std::string_view name,
                                                 int64_t num_rows, int64_t num_columns) {
  const auto tensor = FindShaped(file, name, {num_rows, num_columns});
  if (!tensor.ok()) return tensor.status();
  return kernels::WeightMatrix{.data = (*tensor)->data,
                               .type = (*tensor)->type,
                               .num_rows = num_rows,
                               .num_columns = num_columns};
}

absl::StatusOr<std::vector<float>> ReadVector(const GgufFile& file, std::string_view name,
                                              int64_t num_elements) {
  const auto tensor = FindShaped(file, name, {num_elements});
  if (!tensor.ok()) return tensor.status();
  std::vector<float> values(static_cast<size_t>(num_elements));
  kernels::DequantizeRow((*tensor)->type, (*tensor)->data, num_elements, values.data());
  return values;
}

PermutedMatrix PermuteRows(const kernels::WeightMatrix& matrix,
                           const std::vector<int64_t>& source_rows) {
  const int64_t row_bytes = kernels::RowBytes(matrix.type, matrix.num_columns);
  const auto* source = static_cast<const std::byte*>(matrix.data);
  PermutedMatrix result;
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

}  // namespace nsa::engine
