#ifndef NSA_ENGINE_TOKENIZER_TOKENIZER_H_
#define NSA_ENGINE_TOKENIZER_TOKENIZER_H_

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace nsa::engine {

class GgufFile;

struct EncodeOptions {
  /// Put the checkpoint's begin-of-sequence token (and end token, where it asks for one) around the
  /// text.
  bool add_special_tokens = true;
  /// Take special tokens' names in the text ("<|im_start|>") for the tokens, not for plain text.
  bool parse_special_tokens = true;
};

/// Text to token ids and back. Immutable: any thread.
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  /// Any bytes are accepted. Invalid UTF-8 is encoded as the reference implementation of the kind
  /// does.
  virtual std::vector<int32_t> Encode(std::string_view text,
                                      const EncodeOptions& options) const = 0;

  /// The bytes that `id` stands for when it follows other tokens; they may be part of a character.
  /// Control tokens give their name. `id` is in [0, vocabulary_size).
  virtual std::string TokenBytes(int32_t id) const = 0;

  /// Whole text of `ids`, as the reference implementation's decode without clean-up gives it;
  /// incomplete or invalid UTF-8 becomes U+FFFD. Ids are in range.
  virtual std::string Decode(const std::vector<int32_t>& ids, bool skip_special_tokens) const = 0;

  virtual int32_t vocabulary_size() const = 0;
  virtual bool IsSpecial(int32_t id) const = 0;  // control and unknown tokens
  virtual int32_t bos_id() const = 0;            // −1: none
  /// Tokens that end a completion (EOS, end of turn); may be empty.
  virtual const std::vector<int32_t>& stop_ids() const = 0;
  /// "bpe/smollm", "sentencepiece/unigram", … for GetModelInfo.
  virtual std::string kind() const = 0;
  /// Whether the first piece's leading space is dropped when decoding (SentencePiece's dummy
  /// prefix).
  virtual bool strips_leading_space() const = 0;
};

/// From the vocabulary in a GGUF file: `gpt2` → byte-level BPE, `llama` → SentencePiece.
absl::StatusOr<std::unique_ptr<Tokenizer>> LoadTokenizer(const GgufFile& file);

/// From a SentencePiece `.model` file alone.
absl::StatusOr<std::unique_ptr<Tokenizer>> LoadSentencePieceModel(const std::string& path);

/// Turns a stream of tokens into a stream of text. Never emits part of a character: bytes wait
/// until their character is complete; bytes that cannot become one are emitted as U+FFFD. All
/// pieces and Flush's rest join to Tokenizer::Decode of all ids.
class Detokenizer {
 public:
  Detokenizer(const Tokenizer* tokenizer, bool skip_special_tokens)
      : tokenizer_(tokenizer), skip_special_tokens_(skip_special_tokens) {}

  std::string Append(int32_t id);
  std::string Flush();

 private:
  const Tokenizer* tokenizer_;
  bool skip_special_tokens_;
  bool first_ = true;
  std::string pending_;  // bytes of an incomplete character
};

}  // namespace nsa::engine

#endif  // NSA_ENGINE_TOKENIZER_TOKENIZER_H_
