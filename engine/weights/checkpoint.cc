#include "engine/weights/checkpoint.h"

#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/memory/memory.h"

namespace nsa::engine {

absl::StatusOr<std::unique_ptr<Checkpoint>> Checkpoint::Open(const std::string& path) {
  auto checkpoint = absl::WrapUnique(new Checkpoint());
  std::error_code error;
  if (std::filesystem::is_directory(path, error)) {
    auto folder = ModelFolder::Open(path);
    if (!folder.ok()) return folder.status();
    checkpoint->folder_ = *std::move(folder);
  } else {
    auto file = GgufFile::Open(path);
    if (!file.ok()) return file.status();
    checkpoint->gguf_ = *std::move(file);
  }
  return checkpoint;
}

}  // namespace nsa::engine
