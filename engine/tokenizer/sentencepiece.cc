#include "engine/tokenizer/sentencepiece.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <fstream>
#include <iterator>
#include <optional>
#include <utility>

#include "absl/strings/str_format.h"
#include "engine/tokenizer/piece_text.h"
#include "engine/tokenizer/sentencepiece/c_api.h"
#include "engine/tokenizer/utf8.h"
#include "kernels/check.h"

namespace nsa::engine {
namespace {

absl::Status NotAModel(const char* error) {
  return absl::InvalidArgumentError(
      absl::StrFormat("SentencePiece refuses the model: %s; convert or export it again", error));
}

}  // namespace

void SentencePiece::FreeModel::operator()(NsaSpmModel* model) const { nsa_spm_free(model); }

absl::StatusOr<std::unique_ptr<SentencePiece>> SentencePiece::FromModelProto(
    std::string_view bytes, const ProtoOptions& options) {
  std::array<char, 512> error = {};
  std::unique_ptr<SentencePiece> tokenizer(new SentencePiece());
  tokenizer->model_.reset(nsa_spm_load(bytes.data(), bytes.size(), error.data(), error.size()));
  if (tokenizer->model_ == nullptr) return NotAModel(error.data());
  if (auto status = tokenizer->ReadPieces(/*split_user_defined=*/false); !status.ok())
    return status;
  tokenizer->bos_id_ = nsa_spm_bos_id(tokenizer->model_.get());
  tokenizer->eos_id_ = nsa_spm_eos_id(tokenizer->model_.get());
  // The file does not say; language models with such a token were trained with it in front.
  tokenizer->add_bos_ = options.add_bos.value_or(true) && tokenizer->bos_id_ >= 0;
  tokenizer->add_eos_ = options.add_eos.value_or(false) && tokenizer->eos_id_ >= 0;
  std::vector<int32_t>& stop_ids = tokenizer->stop_ids_;
  if (tokenizer->eos_id_ >= 0) stop_ids.push_back(tokenizer->eos_id_);
  for (const int64_t id : options.stop_ids) {
    if (id < 0 || id >= tokenizer->vocabulary_size()) {
      return absl::InvalidArgumentError(
          absl::StrFormat("end token %d, expected 0 to %d", id, tokenizer->vocabulary_size() - 1));
    }
    stop_ids.push_back(static_cast<int32_t>(id));
  }
  std::sort(stop_ids.begin(), stop_ids.end());
  stop_ids.erase(std::unique(stop_ids.begin(), stop_ids.end()), stop_ids.end());
  return tokenizer;
}

absl::StatusOr<std::unique_ptr<SentencePiece>> SentencePiece::FromVocabulary(
    Vocabulary vocabulary) {
  vocabulary.add_bos = vocabulary.add_bos.value_or(true);
  if (absl::Status status = CheckVocabulary(vocabulary); !status.ok()) return status;
  if (vocabulary.scores.empty()) {
    return absl::InvalidArgumentError(
        "tokenizer.ggml.scores is missing, expected one score for each token of a vocabulary of "
        "kind "
        "\"llama\"; convert the checkpoint again");
  }
  // SentencePiece insists on an unknown token, and some files do not mark theirs.
  std::vector<TokenType>& types = vocabulary.types;
  if (std::find(types.begin(), types.end(), TokenType::kUnknown) == types.end()) {
    types[std::max(vocabulary.unknown_id, 0)] = TokenType::kUnknown;
  }
  std::vector<NsaSpmPiece> pieces;
  pieces.reserve(vocabulary.tokens.size());
  for (size_t id = 0; id < vocabulary.tokens.size(); ++id) {
    const std::string& token = vocabulary.tokens[id];
    pieces.push_back({token.data(), token.size(), vocabulary.scores[id],
                      static_cast<int32_t>(vocabulary.types[id])});
  }
  const NsaSpmOptions options = {.add_dummy_prefix = vocabulary.add_space_prefix};
  std::array<char, 512> error = {};
  std::unique_ptr<SentencePiece> tokenizer(new SentencePiece());
  tokenizer->model_.reset(
      nsa_spm_build_bpe(pieces.data(), pieces.size(), &options, error.data(), error.size()));
  if (tokenizer->model_ == nullptr) return NotAModel(error.data());
  if (auto status = tokenizer->ReadPieces(/*split_user_defined=*/true); !status.ok()) return status;
  tokenizer->bos_id_ = vocabulary.bos_id;
  tokenizer->eos_id_ = vocabulary.eos_id;
  tokenizer->add_bos_ = *vocabulary.add_bos;
  tokenizer->add_eos_ = vocabulary.add_eos;
  tokenizer->stop_ids_ = std::move(vocabulary.stop_ids);
  return tokenizer;
}

absl::Status SentencePiece::ReadPieces(bool split_user_defined) {
  const int32_t num_pieces = nsa_spm_num_pieces(model_.get());
  strips_leading_space_ = nsa_spm_strips_leading_space(model_.get()) != 0;
  bytes_.reserve(num_pieces);
  types_.reserve(num_pieces);
  for (int32_t id = 0; id < num_pieces; ++id) {
    const NsaSpmPiece piece = nsa_spm_piece(model_.get(), id);
    const std::string_view text(piece.text, piece.num_bytes);
    const TokenType type = static_cast<TokenType>(piece.type);
    types_.push_back(type);
    switch (type) {
      case TokenType::kByte: {
        const std::optional<char> byte = ByteOfPiece(text);
        if (!byte.has_value()) {
          return absl::InvalidArgumentError(
              absl::StrFormat("token %d is \"%s\" and of type byte, expected <0x00> to <0xFF>; "
                              "convert the checkpoint again",
                              id, std::string(text)));
        }
        bytes_.emplace_back(1, *byte);
        break;
      }
      case TokenType::kControl:
      case TokenType::kUnknown:
        bytes_.emplace_back(text);
        special_tokens_.Add(text, id, /*always=*/false);
        break;
      case TokenType::kUserDefined:
        if (split_user_defined) special_tokens_.Add(text, id, /*always=*/true);
        [[fallthrough]];
      default:
        bytes_.push_back(WithPlainSpaces(text));
    }
  }
  return absl::OkStatus();
}

std::vector<int32_t> SentencePiece::Encode(std::string_view text,
                                           const EncodeOptions& options) const {
  std::vector<int32_t> ids;
  if (options.add_special_tokens && add_bos_) ids.push_back(bos_id_);
  const auto append = [](void* context, const int32_t* more, size_t num_more) {
    auto& all = *static_cast<std::vector<int32_t>*>(context);
    all.insert(all.end(), more, more + num_more);
  };
  for (const auto& fragment : special_tokens_.Split(text, options.parse_special_tokens)) {
    if (fragment.token_id >= 0) {
      ids.push_back(fragment.token_id);
      continue;
    }
    NSA_CHECK(nsa_spm_encode(model_.get(), fragment.text.data(), fragment.text.size(), append,
                             &ids) != 0);
  }
  if (options.add_special_tokens && add_eos_) ids.push_back(eos_id_);
  return ids;
}

std::string SentencePiece::TokenBytes(int32_t id) const {
  NSA_CHECK(id >= 0 && id < vocabulary_size());
  return bytes_[id];
}

std::string SentencePiece::Decode(const std::vector<int32_t>& ids, bool skip_special_tokens) const {
  std::string bytes;
  bool first = true;
  for (int32_t id : ids) {
    const bool special = IsSpecial(id);
    if (special && skip_special_tokens) continue;
    std::string_view token = bytes_[id];
    if (!special) {
      if (first && strips_leading_space_ && token.starts_with(' ')) token.remove_prefix(1);
      first = false;
    }
    bytes += token;
  }
  return ReplaceInvalidUtf8(bytes);
}

bool SentencePiece::IsSpecial(int32_t id) const {
  NSA_CHECK(id >= 0 && id < vocabulary_size());
  return types_[id] == TokenType::kControl || types_[id] == TokenType::kUnknown;
}

Vocabulary SentencePiece::ToVocabulary() const {
  Vocabulary vocabulary;
  for (int32_t id = 0; id < vocabulary_size(); ++id) {
    const NsaSpmPiece piece = nsa_spm_piece(model_.get(), id);
    vocabulary.tokens.emplace_back(piece.text, piece.num_bytes);
    vocabulary.scores.push_back(piece.score);
  }
  vocabulary.types = types_;
  vocabulary.bos_id = bos_id_;
  vocabulary.eos_id = eos_id_;
  vocabulary.stop_ids = stop_ids_;
  vocabulary.add_bos = add_bos_;
  vocabulary.add_eos = add_eos_;
  vocabulary.add_space_prefix = strips_leading_space_;
  return vocabulary;
}

std::string SentencePiece::kind() const {
  return absl::StrFormat("sentencepiece/%s", nsa_spm_algorithm(model_.get()));
}

absl::StatusOr<std::unique_ptr<Tokenizer>> LoadSentencePieceModel(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) {
    return absl::NotFoundError(
        absl::StrFormat("%s: cannot be opened: %s", path, std::strerror(errno)));
  }
  const std::string bytes((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  auto tokenizer = SentencePiece::FromModelProto(bytes);
  if (!tokenizer.ok()) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s: %s", path, std::string(tokenizer.status().message())));
  }
  return *std::move(tokenizer);
}

}  // namespace nsa::engine
