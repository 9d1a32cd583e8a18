#ifndef NSA_ENGINE_TOKENIZER_TOKENIZER_EXPORT_H_
#define NSA_ENGINE_TOKENIZER_TOKENIZER_EXPORT_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/tokenizer/tokenizer.h"

namespace nsa::engine {

class Checkpoint;

struct TokenizerFile {
  std::string name;  // "tokenizer.json"
  std::string bytes;
};

/// The files by which PyPI `tokenizers`, and what is built on it, makes the same ids of the same
/// text: tokenizer.json, tokenizer_config.json with the chat template, generation_config.json with
/// the end tokens. A folder's own, as they are; what a GGUF file or a folder with a SentencePiece
/// model of merges lacks is made from the vocabulary. `tokenizer`: the checkpoint's. Unimplemented
/// for folders with other SentencePiece models and no tokenizer.json.
absl::StatusOr<std::vector<TokenizerFile>> ExportTokenizer(const Checkpoint& checkpoint,
                                                           const Tokenizer& tokenizer);

}  // namespace nsa::engine

#endif  // NSA_ENGINE_TOKENIZER_TOKENIZER_EXPORT_H_
