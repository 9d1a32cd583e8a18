#ifndef NSA_ENGINE_WEIGHTS_GGUF_H_
#define NSA_ENGINE_WEIGHTS_GGUF_H_

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "engine/weights/mapped_file.h"
#include "kernels/ops/gemm.h"

namespace nsa::engine {

class ByteCursor;

/// A metadata value. Arrays are flat; arrays of arrays are refused. Strings view the mapped file.
struct GgufValue {
  using Strings = std::vector<std::string_view>;
  std::variant<uint64_t, int64_t, double, bool, std::string_view, std::vector<uint64_t>,
               std::vector<int64_t>, std::vector<double>, std::vector<bool>, Strings>
      value;
};

struct GgufTensor {
  std::string_view name;
  kernels::WeightType type = kernels::WeightType::kF32;
  std::vector<int64_t> shape;       // slowest dimension first: a matrix is {rows, columns}
  const std::byte* data = nullptr;  // in the mapped file
  int64_t num_bytes = 0;
};

/// A GGUF file (version 2 or 3, little endian), memory-mapped read-only. Every count, length,
/// offset, alignment and shape is checked against the file before it is used, so a hostile file
/// gives an error and never a crash or an allocation larger than the file justifies. Immutable: any
/// thread.
class GgufFile {
 public:
  /// NotFound, or InvalidArgument with what was found, where and what was expected.
  static absl::StatusOr<std::unique_ptr<GgufFile>> Open(const std::string& path);
  ~GgufFile();
  GgufFile(const GgufFile&) = delete;
  GgufFile& operator=(const GgufFile&) = delete;

  const std::string& path() const { return path_; }
  uint32_t version() const { return version_; }
  int64_t file_bytes() const { return static_cast<int64_t>(file_->bytes().size()); }

  /// Null where there is none.
  const GgufValue* FindValue(std::string_view key) const;
  const GgufTensor* FindTensor(std::string_view name) const;
  const std::vector<GgufTensor>& tensors() const { return tensors_; }

  // Typed access: NotFound without the key, InvalidArgument where the type or range differs.
  // Integers of any width and sign are taken if the value fits; floats of either width.
  absl::StatusOr<int64_t> GetInt(std::string_view key) const;
  absl::StatusOr<double> GetFloat(std::string_view key) const;
  absl::StatusOr<bool> GetBool(std::string_view key) const;
  absl::StatusOr<std::string_view> GetString(std::string_view key) const;
  absl::StatusOr<GgufValue::Strings> GetStrings(std::string_view key) const;
  absl::StatusOr<std::vector<int64_t>> GetInts(std::string_view key) const;
  absl::StatusOr<std::vector<double>> GetFloats(std::string_view key) const;

 private:
  GgufFile() = default;
  absl::Status Parse();
  absl::Status ParseHeader(ByteCursor& cursor, uint64_t& num_tensors, uint64_t& num_values);
  absl::Status ParseValues(ByteCursor& cursor, uint64_t num_values);

  std::string path_;
  std::unique_ptr<MappedFile> file_;
  uint32_t version_ = 0;
  absl::flat_hash_map<std::string_view, GgufValue> values_;
  std::vector<GgufTensor> tensors_;
  absl::flat_hash_map<std::string_view, size_t> tensor_index_;
};

}  // namespace nsa::engine

#endif  // NSA_ENGINE_WEIGHTS_GGUF_H_
