#ifndef NSA_ENGINE_WEIGHTS_WEIGHT_READER_H_
#define NSA_ENGINE_WEIGHTS_WEIGHT_READER_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/weights/gguf.h"
#include "kernels/ops/gemm.h"

namespace nsa::engine {

/// Tensors of a file by name and expected shape. NotFound names a missing tensor; InvalidArgument
/// names the tensor, the shape found and the shape expected.
absl::StatusOr<kernels::WeightMatrix> ReadMatrix(const GgufFile& file, std::string_view name,
                                                 int64_t num_rows, int64_t num_columns);

/// A vector, converted to float32.
absl::StatusOr<std::vector<float>> ReadVector(const GgufFile& file, std::string_view name,
                                              int64_t num_elements);

/// A copy of `matrix` whose row r is the source's row source_rows[r]; owns its bytes.
struct PermutedMatrix {
  std::vector<std::byte> bytes;
  kernels::WeightMatrix matrix;
};
PermutedMatrix PermuteRows(const kernels::WeightMatrix& matrix,
                           const std::vector<int64_t>& source_rows);

}  // namespace nsa::engine

#endif  // NSA_ENGINE_WEIGHTS_WEIGHT_READER_H_
