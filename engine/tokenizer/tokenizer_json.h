#ifndef NSA_ENGINE_TOKENIZER_TOKENIZER_JSON_H_
#define NSA_ENGINE_TOKENIZER_TOKENIZER_JSON_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/tokenizer/tokenizer.h"
#include "engine/weights/json_config.h"

namespace nsa::engine {

/// What tokenizer.json leaves to the files beside it.
struct TokenizerSettings {
  std::string bos_token, eos_token;      // empty: none
  std::vector<int64_t> stop_ids;         // besides those that are known by name; others are refused
  std::optional<bool> add_bos, add_eos;  // nothing: as the file's template has it
  // Rows of the embedding: added tokens from there on are left out. 0: none are.
  size_t max_tokens = 0;
};

/// A tokenizer.json of PyPI `tokenizers`: models of kind BPE, over bytes or over characters, with
/// the normalizers, pre-tokenizers, decoders and post-processors of the families that are served.
/// Unimplemented names a component that is not known, InvalidArgument what is wrong and where.
absl::StatusOr<std::unique_ptr<Tokenizer>> LoadTokenizerJson(const JsonConfig& file,
                                                             const TokenizerSettings& settings);

}  // namespace nsa::engine

#endif  // NSA_ENGINE_TOKENIZER_TOKENIZER_JSON_H_
