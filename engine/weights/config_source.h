#ifndef NSA_ENGINE_WEIGHTS_CONFIG_SOURCE_H_
#define NSA_ENGINE_WEIGHTS_CONFIG_SOURCE_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace nsa::engine {

/// Named values of a checkpoint: a GGUF file's metadata, or a JSON file's fields. Access gives
/// NotFound without the key and InvalidArgument where type or range differ; messages name the file,
/// the key, and what was expected. Immutable: any thread.
class ConfigSource {
 public:
  using Strings = std::vector<std::string_view>;

  virtual ~ConfigSource() = default;

  /// Of the file, for messages.
  virtual const std::string& path() const = 0;
  virtual bool Has(std::string_view key) const = 0;
  /// Whether `key` holds named values of its own, reached by their own paths.
  virtual bool IsObject(std::string_view key) const = 0;

  // Integers of any width and sign are taken if the value fits.
  virtual absl::StatusOr<int64_t> GetInt(std::string_view key) const = 0;
  virtual absl::StatusOr<double> GetFloat(std::string_view key) const = 0;
  virtual absl::StatusOr<bool> GetBool(std::string_view key) const = 0;
  /// Views the source.
  virtual absl::StatusOr<std::string_view> GetString(std::string_view key) const = 0;
  virtual absl::StatusOr<Strings> GetStrings(std::string_view key) const = 0;
  virtual absl::StatusOr<std::vector<int64_t>> GetInts(std::string_view key) const = 0;
  virtual absl::StatusOr<std::vector<double>> GetFloats(std::string_view key) const = 0;
};

}  // namespace nsa::engine

#endif  // NSA_ENGINE_WEIGHTS_CONFIG_SOURCE_H_
