#ifndef NSA_ENGINE_TOKENIZER_CHARACTER_BPE_H_
#define NSA_ENGINE_TOKENIZER_CHARACTER_BPE_H_

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "engine/tokenizer/bpe_merges.h"
#include "engine/tokenizer/normalizer.h"
#include "engine/tokenizer/pre_tokenizer.h"
#include "engine/tokenizer/special_tokens.h"
#include "engine/tokenizer/tokenizer.h"
#include "engine/tokenizer/vocabulary.h"

namespace nsa::engine {

/// Byte-pair encoding over characters, as tokenizer.json files hold what was a SentencePiece model:
/// spaces are U+2581, and characters without a token become the tokens of their bytes. Follows PyPI
/// `tokenizers`. Text that is not UTF-8 is read as Python's errors="replace" reads it.
class CharacterBpe final : public Tokenizer {
 public:
  struct Options {
    Normalizer normalizer;
    Normalizer first_normalizer;  // of the text's head, where that differs; else the same
    std::unique_ptr<PreTokenizer> pre_tokenizer;  // null: text between added tokens is one piece
    bool byte_fallback = false;
    bool fuse_unknown = false;  // characters without a token side by side are one unknown token
    bool ignores_merges = false;
    bool strips_leading_space = false;
  };

  /// InvalidArgument where the vocabulary is not consistent.
  static absl::StatusOr<std::unique_ptr<CharacterBpe>> Create(Vocabulary vocabulary,
                                                              Options options);

  std::vector<int32_t> Encode(std::string_view text, const EncodeOptions& options) const override;
  std::string TokenBytes(int32_t id) const override;
  std::string Decode(const std::vector<int32_t>& ids, bool skip_special_tokens) const override;
  int32_t vocabulary_size() const override { return static_cast<int32_t>(bytes_.size()); }
  bool IsSpecial(int32_t id) const override;
  int32_t bos_id() const override { return vocabulary_.bos_id; }
  const std::vector<int32_t>& stop_ids() const override { return vocabulary_.stop_ids; }
  std::string kind() const override { return "bpe/characters"; }
  bool strips_leading_space() const override { return options_.strips_leading_space; }

 private:
  CharacterBpe() = default;
  void IndexTokens();
  void EncodePiece(std::string_view piece, std::vector<int32_t>& ids) const;
  void AppendSymbols(std::string_view piece, std::vector<int32_t>& symbols) const;

  Vocabulary vocabulary_;  // merges are read and dropped
  Options options_;
  SpecialTokens special_tokens_;
  std::vector<std::string> bytes_;                      // what each token stands for
  std::array<int32_t, 256> byte_ids_;                   // of "<0x00>" to "<0xFF>"; −1: none
  absl::flat_hash_map<std::string_view, int32_t> ids_;  // of normal tokens; keys in vocabulary_
  BpeMerges merges_;
};

}  // namespace nsa::engine

#endif  // NSA_ENGINE_TOKENIZER_CHARACTER_BPE_H_
