#ifndef NSA_ENGINE_WEIGHTS_WEIGHT_READER_H_
#define NSA_ENGINE_WEIGHTS_WEIGHT_READER_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/weights/weight_map.h"
#include "kernels/ops/gemm.h"

namespace nsa::engine {

/// Tensors of a checkpoint by name and expected shape. NotFound names a missing tensor;
/// InvalidArgument names the tensor, the shape or type found and those expected.
absl::StatusOr<kernels::WeightMatrix> ReadMatrix(const WeightMap& weights, std::string_view name,
                                                 int64_t num_rows, int64_t num_columns);

/// A vector, converted to float32.
absl::StatusOr<std::vector<float>> ReadVector(const WeightMap& weights, std::string_view name,
                                              int64_t num_elements);

/// A matrix, converted to float32: [num_rows, num_columns].
absl::StatusOr<std::vector<float>> ReadMatrixFloats(const WeightMap& weights, std::string_view name,
                                                    int64_t num_rows, int64_t num_columns);

/// A matrix made from another; owns its bytes.
struct OwnedMatrix {
  std::vector<std::byte> bytes;
  kernels::WeightMatrix matrix;
};

/// A copy of `matrix` whose row r is the source's row source_rows[r].
OwnedMatrix PermuteRows(const kernels::WeightMatrix& matrix,
                        const std::vector<int64_t>& source_rows);

/// A copy of `matrix`, which is dense, in another type; its columns are a multiple of that type's
/// block.
OwnedMatrix ConvertMatrix(const kernels::WeightMatrix& matrix, kernels::WeightType type);

}  // namespace nsa::engine

#endif  // NSA_ENGINE_WEIGHTS_WEIGHT_READER_H_
