#ifndef NSA_ENGINE_WEIGHTS_JSON_CONFIG_H_
#define NSA_ENGINE_WEIGHTS_JSON_CONFIG_H_

#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/weights/config_source.h"

namespace nsa::engine {

/// A JSON file whose top is an object, such as config.json. A key is a path of names with dots
/// between them ("rope_scaling.factor"); a field that is null counts as absent, as in Python's
/// configurations. A whole number passes for a float, and a float without a fraction for an
/// integer. Immutable: any thread.
class JsonConfig final : public ConfigSource {
 public:
  /// NotFound; InvalidArgument where it is no JSON object, is larger than 64 MiB or nests deeper
  /// than 256 levels, with the byte.
  static absl::StatusOr<JsonConfig> Read(const std::string& path);
  /// From text; `path` is for messages.
  static absl::StatusOr<JsonConfig> Parse(std::string_view text, std::string path);
  ~JsonConfig() override;
  JsonConfig(JsonConfig&&) noexcept;
  JsonConfig& operator=(JsonConfig&&) noexcept;

  const std::string& path() const override { return path_; }
  bool Has(std::string_view key) const override { return Find(key) != nullptr; }
  absl::StatusOr<int64_t> GetInt(std::string_view key) const override;
  absl::StatusOr<double> GetFloat(std::string_view key) const override;
  absl::StatusOr<bool> GetBool(std::string_view key) const override;
  absl::StatusOr<std::string_view> GetString(std::string_view key) const override;
  absl::StatusOr<Strings> GetStrings(std::string_view key) const override;
  absl::StatusOr<std::vector<int64_t>> GetInts(std::string_view key) const override;
  absl::StatusOr<std::vector<double>> GetFloats(std::string_view key) const override;

  bool IsObject(std::string_view key) const override;
  bool IsArray(std::string_view key) const;
  /// The object `key` as a configuration of its own. `defaults`, a JSON object, are the fields that
  /// it may leave out.
  absl::StatusOr<JsonConfig> Section(std::string_view key, std::string_view defaults) const;
  /// The document, for files whose shape is not fields of an object (tokenizer.json).
  const nlohmann::json& document() const { return *document_; }

 private:
  JsonConfig(std::string path, std::unique_ptr<nlohmann::json> document);

  /// Null where there is no such field, or it is null.
  const nlohmann::json* Find(std::string_view key) const;

  std::string path_;
  std::unique_ptr<nlohmann::json> document_;
};

}  // namespace nsa::engine

#endif  // NSA_ENGINE_WEIGHTS_JSON_CONFIG_H_
