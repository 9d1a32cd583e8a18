#ifndef NSA_ENGINE_TOKENIZER_VOCABULARY_H_
#define NSA_ENGINE_TOKENIZER_VOCABULARY_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace nsa::engine {

class GgufFile;

/// The numbers are those of GGUF's `tokenizer.ggml.token_type` and of SentencePiece's ModelProto.
enum class TokenType : uint8_t {
  kNormal = 1,
  kUnknown = 2,
  kControl = 3,
  kUserDefined = 4,
  kUnused = 5,
  kByte = 6,
};

/// An added token that takes the white space beside it along.
struct TokenStrip {
  int32_t id = -1;
  bool left = false;
  bool right = false;
};

/// A checkpoint's vocabulary as the file has it, before either kind of tokenizer is built.
struct Vocabulary {
  std::vector<std::string> tokens;  // unique, not empty
  std::vector<TokenType> types;     // one for each token
  std::vector<float> scores;        // one for each token, or none
  std::vector<std::string> merges;  // "left right", best first; byte-level BPE only
  std::string pre;                  // name of the split pattern; byte-level BPE only
  std::vector<TokenStrip> strips;   // of added tokens that take white space beside them along
  int32_t bos_id = -1;              // −1: none
  int32_t eos_id = -1;
  int32_t unknown_id = -1;
  std::vector<int32_t> stop_ids;  // ascending, unique
  std::optional<bool> add_bos;    // nothing: as the kind of tokenizer does by default
  bool add_eos = false;
  bool add_space_prefix = false;
};

/// InvalidArgument names the key, what it holds and what was expected.
absl::StatusOr<Vocabulary> ReadVocabulary(const GgufFile& file);

/// Sizes, uniqueness, ids in range, and that add_bos and add_eos have a token to add.
absl::Status CheckVocabulary(const Vocabulary& vocabulary);

/// Adds tokens that end a turn by their well-known names ("<|im_end|>", "<|eot_id|>", …) to
/// stop_ids: checkpoints name only one end token in their metadata, and chat models often use
/// another.
void AddStopTokensByName(Vocabulary& vocabulary);

}  // namespace nsa::engine

#endif  // NSA_ENGINE_TOKENIZER_VOCABULARY_H_
