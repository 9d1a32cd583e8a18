#ifndef NSA_ENGINE_WEIGHTS_CHECKPOINT_H_
#define NSA_ENGINE_WEIGHTS_CHECKPOINT_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "engine/weights/gguf.h"
#include "engine/weights/model_folder.h"
#include "engine/weights/weight_map.h"

namespace nsa::engine {

/// A checkpoint in either form that its authors publish: one GGUF file, or a Hugging Face folder.
/// Immutable: any thread.
class Checkpoint {
 public:
  /// A folder is opened as ModelFolder, anything else as GgufFile; their errors.
  static absl::StatusOr<std::unique_ptr<Checkpoint>> Open(const std::string& path);

  const GgufFile* gguf() const { return gguf_.get(); }         // null for a folder
  const ModelFolder* folder() const { return folder_.get(); }  // null for a GGUF file
  const std::string& path() const { return weights().origin(); }
  const WeightMap& weights() const { return gguf_ ? gguf_->weights() : folder_->weights(); }
  /// Bytes of the files that hold the weights.
  int64_t file_bytes() const { return gguf_ ? gguf_->file_bytes() : folder_->weight_bytes(); }

 private:
  Checkpoint() = default;

  std::unique_ptr<GgufFile> gguf_;
  std::unique_ptr<ModelFolder> folder_;
};

}  // namespace nsa::engine

#endif  // NSA_ENGINE_WEIGHTS_CHECKPOINT_H_
