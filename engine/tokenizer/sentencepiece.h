#ifndef NSA_ENGINE_TOKENIZER_SENTENCEPIECE_H_
#define NSA_ENGINE_TOKENIZER_SENTENCEPIECE_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/tokenizer/special_tokens.h"
#include "engine/tokenizer/tokenizer.h"
#include "engine/tokenizer/vocabulary.h"

struct NsaSpmModel;

namespace nsa::engine {

/// A SentencePiece model. Each invalid byte of a text is read as one U+FFFD, as SentencePiece does.
class SentencePiece final : public Tokenizer {
 public:
  /// What a ModelProto does not say and files beside it may.
  struct ProtoOptions {
    std::optional<bool> add_bos, add_eos;
    std::vector<int64_t> stop_ids;  // besides the model's own end token
  };

  /// From a serialised ModelProto. Control tokens are parsed in text where the caller asks for it;
  /// user-defined ones are SentencePiece's own business. InvalidArgument where it is not a model.
  static absl::StatusOr<std::unique_ptr<SentencePiece>> FromModelProto(std::string_view bytes,
                                                                       const ProtoOptions& options);
  static absl::StatusOr<std::unique_ptr<SentencePiece>> FromModelProto(std::string_view bytes) {
    return FromModelProto(bytes, ProtoOptions());
  }

  /// From a GGUF vocabulary of kind `llama`: a model that merges by score. Special tokens are cut
  /// out first, user-defined ones always, and the text after each begins anew, with its space where
  /// the checkpoint adds one, as llama.cpp does.
  static absl::StatusOr<std::unique_ptr<SentencePiece>> FromVocabulary(Vocabulary vocabulary);

  std::vector<int32_t> Encode(std::string_view text, const EncodeOptions& options) const override;
  std::string TokenBytes(int32_t id) const override;
  std::string Decode(const std::vector<int32_t>& ids, bool skip_special_tokens) const override;
  int32_t vocabulary_size() const override { return static_cast<int32_t>(bytes_.size()); }
  bool IsSpecial(int32_t id) const override;
  int32_t bos_id() const override { return bos_id_; }
  const std::vector<int32_t>& stop_ids() const override { return stop_ids_; }
  std::string kind() const override;
  bool strips_leading_space() const override { return strips_leading_space_; }

  /// What the model holds, as a GGUF file would have it.
  Vocabulary ToVocabulary() const;

 private:
  struct FreeModel {
    void operator()(NsaSpmModel* model) const;
  };

  SentencePiece() = default;
  absl::Status ReadPieces(bool split_user_defined);

  std::unique_ptr<NsaSpmModel, FreeModel> model_;
  SpecialTokens special_tokens_;
  std::vector<std::string> bytes_;  // what each token stands for
  std::vector<TokenType> types_;
  std::vector<int32_t> stop_ids_;
  int32_t bos_id_ = -1;
  int32_t eos_id_ = -1;
  bool add_bos_ = false;
  bool add_eos_ = false;
  bool strips_leading_space_ = false;
};

}  // namespace nsa::engine

#endif  // NSA_ENGINE_TOKENIZER_SENTENCEPIECE_H_
