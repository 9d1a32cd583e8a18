#ifndef NSA_ENGINE_TOKENIZER_BYTE_BPE_H_
#define NSA_ENGINE_TOKENIZER_BYTE_BPE_H_

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

/// Byte-level byte-pair encoding, as GPT-2 introduced it. Text that is not UTF-8 is read as
/// Python's errors="replace" reads it, because the reference (PyPI `tokenizers`) takes strings
/// only.
class ByteBpe final : public Tokenizer {
 public:
  /// InvalidArgument where the vocabulary is not consistent.
  static absl::StatusOr<std::unique_ptr<ByteBpe>> Create(Vocabulary vocabulary);
  /// With a split of its own, `vocabulary.pre` then being a name for messages, and with changes to
  /// the text before it is split.
  static absl::StatusOr<std::unique_ptr<ByteBpe>> Create(
      Vocabulary vocabulary, std::unique_ptr<PreTokenizer> pre_tokenizer, Normalizer normalizer);

  std::vector<int32_t> Encode(std::string_view text, const EncodeOptions& options) const override;
  std::string TokenBytes(int32_t id) const override;
  std::string Decode(const std::vector<int32_t>& ids, bool skip_special_tokens) const override;
  int32_t vocabulary_size() const override { return static_cast<int32_t>(bytes_.size()); }
  bool IsSpecial(int32_t id) const override;
  int32_t bos_id() const override { return vocabulary_.bos_id; }
  const std::vector<int32_t>& stop_ids() const override { return vocabulary_.stop_ids; }
  std::string kind() const override;
  bool strips_leading_space() const override { return false; }

 private:
  ByteBpe() = default;
  void IndexWholePieces();

  void EncodePiece(std::string_view piece, std::vector<int32_t>& ids) const;
  void AppendSymbols(std::string_view piece, std::vector<int32_t>& symbols) const;

  Vocabulary vocabulary_;  // merges are read and dropped
  std::unique_ptr<PreTokenizer> pre_tokenizer_;
  Normalizer normalizer_;
  SpecialTokens special_tokens_;
  std::vector<std::string> bytes_;     // what each token stands for
  std::array<int32_t, 256> byte_ids_;  // −1: the vocabulary lacks this byte
  BpeMerges merges_;
  // Pieces whose encoding is one token, so that most words need one look-up and no merge. Keys view
  // bytes_.
  absl::flat_hash_map<std::string_view, int32_t> whole_pieces_;
};

}  // namespace nsa::engine

#endif  // NSA_ENGINE_TOKENIZER_BYTE_BPE_H_
