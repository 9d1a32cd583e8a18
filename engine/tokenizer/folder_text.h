#ifndef NSA_ENGINE_TOKENIZER_FOLDER_TEXT_H_
#define NSA_ENGINE_TOKENIZER_FOLDER_TEXT_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "engine/tokenizer/tokenizer.h"
#include "engine/weights/model_folder.h"

namespace nsa::engine {

/// The text side of a checkpoint folder: tokenizer.json or tokenizer.model, with what
/// tokenizer_config.json, generation_config.json and config.json say beside them.
struct FolderText {
  std::unique_ptr<Tokenizer> tokenizer;
  std::string bos_token, eos_token;          // as the template knows them; may be empty
  std::optional<std::string> chat_template;  // Jinja; nothing where the folder has none
};

/// `num_rows`: of the embedding; added tokens from there on are left out. NotFound where the folder
/// has no tokenizer; errors of the files, which they name.
absl::StatusOr<FolderText> LoadFolderText(const ModelFolder& folder, int32_t num_rows);

}  // namespace nsa::engine

#endif  // NSA_ENGINE_TOKENIZER_FOLDER_TEXT_H_
