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
#include "engine/weights/config_source.h"
#include "engine/weights/mapped_file.h"
#include "engine/weights/weight_map.h"

namespace nsa::engine {

class ByteCursor;

/// A metadata value. Arrays are flat; arrays of arrays are refused. Strings view the mapped file.
struct GgufValue {
  using Strings = ConfigSource::Strings;
  std::variant<uint64_t, int64_t, double, bool, std::string_view, std::vector<uint64_t>,
               std::vector<int64_t>, std::vector<double>, std::vector<bool>, Strings>
      value;
};

/// A GGUF file (version 2 or 3, little endian), memory-mapped read-only. Every count, length,
/// offset, alignment and shape is checked against the file before it is used, so a hostile file
/// gives an error and never a crash or an allocation larger than the file justifies. Immutable: any
/// thread.
class GgufFile final : public ConfigSource {
 public:
  /// NotFound, or InvalidArgument with what was found, where and what was expected.
  static absl::StatusOr<std::unique_ptr<GgufFile>> Open(const std::string& path);
  ~GgufFile() override;
  GgufFile(const GgufFile&) = delete;
  GgufFile& operator=(const GgufFile&) = delete;

  const std::string& path() const override { return weights_.origin(); }
  uint32_t version() const { return version_; }
  int64_t file_bytes() const { return static_cast<int64_t>(file_->bytes().size()); }

  const WeightMap& weights() const { return weights_; }

  /// Null where there is none.
  const GgufValue* FindValue(std::string_view key) const;
  bool Has(std::string_view key) const override { return FindValue(key) != nullptr; }
  bool IsObject(std::string_view) const override { return false; }
  absl::StatusOr<int64_t> GetInt(std::string_view key) const override;
  absl::StatusOr<double> GetFloat(std::string_view key) const override;
  absl::StatusOr<bool> GetBool(std::string_view key) const override;
  absl::StatusOr<std::string_view> GetString(std::string_view key) const override;
  absl::StatusOr<Strings> GetStrings(std::string_view key) const override;
  absl::StatusOr<std::vector<int64_t>> GetInts(std::string_view key) const override;
  absl::StatusOr<std::vector<double>> GetFloats(std::string_view key) const override;

 private:
  explicit GgufFile(const std::string& path) : weights_(path) {}
  absl::Status Parse();
  absl::Status ParseHeader(ByteCursor& cursor, uint64_t& num_tensors, uint64_t& num_values);
  absl::Status ParseValues(ByteCursor& cursor, uint64_t num_values);

  std::unique_ptr<MappedFile> file_;
  uint32_t version_ = 0;
  absl::flat_hash_map<std::string_view, GgufValue> values_;
  WeightMap weights_;
};

}  // namespace nsa::engine

#endif  // NSA_ENGINE_WEIGHTS_GGUF_H_
