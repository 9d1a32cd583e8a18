// The text side of checkpoints in a build without tokenizers: ids stand for themselves, and there
// is no chat template. Defines what tokenizer.cc, folder_text.cc, chat_template.cc and
// tokenizer_export.cc define.

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "engine/tokenizer/chat_template.h"
#include "engine/tokenizer/folder_text.h"
#include "engine/tokenizer/id_tokenizer.h"
#include "engine/tokenizer/tokenizer_export.h"
#include "engine/weights/gguf.h"

namespace nsa::engine {
namespace {

absl::Status NotBuilt() {
  return absl::UnimplementedError(
      "this program was built without tokenizers (NSA_BUILD_TOKENIZERS=OFF)");
}

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> LoadTokenizer(const GgufFile& file) {
  const auto tokens = file.GetStrings("tokenizer.ggml.tokens");
  if (!tokens.ok()) return tokens.status();
  std::vector<int32_t> stop_ids;
  if (const auto id = file.GetInt("tokenizer.ggml.eos_token_id"); id.ok()) {
    stop_ids.push_back(static_cast<int32_t>(*id));
  }
  return std::make_unique<IdTokenizer>(static_cast<int32_t>(tokens->size()), std::move(stop_ids));
}

absl::StatusOr<std::unique_ptr<Tokenizer>> LoadSentencePieceModel(const std::string&) {
  return NotBuilt();
}

absl::StatusOr<std::vector<TokenizerFile>> ExportTokenizer(const Checkpoint&, const Tokenizer&) {
  return NotBuilt();
}

absl::StatusOr<FolderText> LoadFolderText(const ModelFolder& folder, int32_t num_rows) {
  std::vector<int32_t> stop_ids;
  const JsonConfig& config = folder.config();
  if (config.Has("eos_token_id") && !config.IsArray("eos_token_id")) {
    const auto id = config.GetInt("eos_token_id");
    if (!id.ok()) return id.status();
    stop_ids.push_back(static_cast<int32_t>(*id));
  }
  FolderText text;
  text.tokenizer = std::make_unique<IdTokenizer>(num_rows, std::move(stop_ids));
  return text;
}

// NOLINTBEGIN(performance-unnecessary-value-param): the interface takes them so.
absl::StatusOr<std::unique_ptr<ChatTemplate>> ChatTemplate::Parse(std::string_view, std::string,
                                                                  std::string) {
  return NotBuilt();
}
// NOLINTEND(performance-unnecessary-value-param)

}  // namespace nsa::engine
