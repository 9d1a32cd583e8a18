#ifndef NSA_ENGINE_WEIGHTS_MODEL_FOLDER_H_
#define NSA_ENGINE_WEIGHTS_MODEL_FOLDER_H_

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/weights/json_config.h"
#include "engine/weights/safetensors.h"
#include "engine/weights/weight_map.h"

namespace nsa::engine {

/// A checkpoint as Hugging Face keeps it: a folder with config.json and its weights in
/// model.safetensors, or in shards that model.safetensors.index.json lists. Nothing in it is ever
/// executed: no pickle is read and no code of the folder runs. Immutable: any thread.
class ModelFolder {
 public:
  /// NotFound names the file that is missing; InvalidArgument where the files contradict each
  /// other.
  static absl::StatusOr<std::unique_ptr<ModelFolder>> Open(const std::string& path);

  const std::string& path() const { return weights_.origin(); }
  const JsonConfig& config() const { return config_; }
  /// The file `name` of the folder; null where there is none.
  absl::StatusOr<std::optional<JsonConfig>> ReadJson(const std::string& name) const;
  /// The path of the file `name`; nothing where there is none.
  std::optional<std::string> FindFile(const std::string& name) const;
  const WeightMap& weights() const { return weights_; }
  int64_t weight_bytes() const;

 private:
  ModelFolder(const std::string& path, JsonConfig config)
      : config_(std::move(config)), weights_(path) {}
  absl::Status OpenWeights();
  absl::Status OpenShards(const JsonConfig& index);

  JsonConfig config_;
  std::vector<std::unique_ptr<SafetensorsFile>> files_;
  WeightMap weights_;
};

}  // namespace nsa::engine

#endif  // NSA_ENGINE_WEIGHTS_MODEL_FOLDER_H_
