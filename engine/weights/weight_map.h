#ifndef NSA_ENGINE_WEIGHTS_WEIGHT_MAP_H_
#define NSA_ENGINE_WEIGHTS_WEIGHT_MAP_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "kernels/quant.h"

namespace nsa::engine {

/// A tensor of a checkpoint, in its mapped file. `type_name` is the file's own word for the type;
/// where no backend reads that type, `type` is kUnreadable and the tensor is only known by name.
struct WeightTensor {
  static constexpr auto kUnreadable = static_cast<kernels::WeightType>(~uint32_t{0});

  std::string_view name;
  kernels::WeightType type = kernels::WeightType::kF32;
  std::string_view type_name;
  std::vector<int64_t> shape;  // slowest dimension first: a matrix is {rows, columns}
  const std::byte* data = nullptr;
  int64_t num_bytes = 0;
};

/// The tensors of a checkpoint by name, whatever the files that hold them. Names and data belong to
/// those files, which outlive the map. Immutable once filled: any thread.
class WeightMap {
 public:
  /// `origin`: file or folder, for messages.
  explicit WeightMap(std::string origin) : origin_(std::move(origin)) {}

  /// False where a tensor of that name is there.
  bool Add(WeightTensor tensor);

  const std::string& origin() const { return origin_; }
  /// In the order of the files.
  const std::vector<WeightTensor>& tensors() const { return tensors_; }
  /// Null where there is none.
  const WeightTensor* Find(std::string_view name) const;

 private:
  std::string origin_;
  std::vector<WeightTensor> tensors_;
  absl::flat_hash_map<std::string_view, size_t> index_;
};

}  // namespace nsa::engine

#endif  // NSA_ENGINE_WEIGHTS_WEIGHT_MAP_H_
