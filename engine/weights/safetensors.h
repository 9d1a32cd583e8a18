#ifndef NSA_ENGINE_WEIGHTS_SAFETENSORS_H_
#define NSA_ENGINE_WEIGHTS_SAFETENSORS_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/weights/mapped_file.h"
#include "engine/weights/weight_map.h"

namespace nsa::engine {

/// A safetensors file, memory-mapped read-only: eight bytes of length, a JSON header, data. Checked
/// as the format's reference does (github.com/huggingface/safetensors, format section): the header
/// fits, begins with '{', names each tensor once; each tensor's bytes are what its type and shape
/// say; together they cover the data without gap or overlap. A hostile file gives an error, never a
/// crash or an allocation larger than the file justifies. Immutable: any thread.
class SafetensorsFile {
 public:
  /// NotFound, or InvalidArgument with file and tensor, what was found and expected.
  static absl::StatusOr<std::unique_ptr<SafetensorsFile>> Open(const std::string& path);

  const std::string& path() const { return path_; }
  int64_t file_bytes() const { return static_cast<int64_t>(file_->bytes().size()); }
  /// In the order of their data. Names live in this object.
  const std::vector<WeightTensor>& tensors() const { return tensors_; }

 private:
  explicit SafetensorsFile(std::string path) : path_(std::move(path)) {}
  absl::Status Parse();

  std::string path_;
  std::unique_ptr<MappedFile> file_;
  std::vector<std::string> names_;
  std::vector<WeightTensor> tensors_;
};

}  // namespace nsa::engine

#endif  // NSA_ENGINE_WEIGHTS_SAFETENSORS_H_
