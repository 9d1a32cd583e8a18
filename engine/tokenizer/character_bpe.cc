#include "engine/tokenizer/character_bpe.h"

#include <optional>
#include <utility>

#include "engine/tokenizer/piece_text.h"
#include "engine/tokenizer/utf8.h"
#include "kernels/check.h"

namespace nsa::engine {

absl::StatusOr<std::unique_ptr<CharacterBpe>> CharacterBpe::Create(Vocabulary vocabulary,
                                                                   Options options) {
  vocabulary.add_bos = vocabulary.add_bos.value_or(false);
  if (absl::Status status = CheckVocabulary(vocabulary); !status.ok()) return status;
  std::unique_ptr<CharacterBpe> bpe(new CharacterBpe());
  bpe->vocabulary_ = std::move(vocabulary);
  bpe->options_ = std::move(options);
  bpe->IndexTokens();
  // Merges may make added tokens too, which `tokenizers` lets them.
  absl::flat_hash_map<std::string_view, int32_t> all;
  const std::vector<std::string>& tokens = bpe->vocabulary_.tokens;
  all.reserve(tokens.size());
  for (size_t id = 0; id < tokens.size(); ++id) all.emplace(tokens[id], static_cast<int32_t>(id));
  auto merges = BpeMerges::Create(bpe->vocabulary_.merges, all);
  if (!merges.ok()) return merges.status();
  bpe->merges_ = *std::move(merges);
  bpe->vocabulary_.merges = {};
  return bpe;
}

void CharacterBpe::IndexTokens() {
  byte_ids_.fill(-1);
  bytes_.reserve(vocabulary_.tokens.size());
  for (size_t i = 0; i < vocabulary_.tokens.size(); ++i) {
    const int32_t id = static_cast<int32_t>(i);
    const std::string& token = vocabulary_.tokens[i];
    const TokenType type = vocabulary_.types[i];
    const bool special = type == TokenType::kControl || type == TokenType::kUnknown;
    if (special || type == TokenType::kUserDefined) {
      special_tokens_.Add(token, id, type == TokenType::kUserDefined);
    }
    if (type != TokenType::kUnused) ids_.emplace(token, id);
    const std::optional<char> byte = options_.byte_fallback ? ByteOfPiece(token) : std::nullopt;
    if (byte.has_value() && !special) {
      byte_ids_[static_cast<uint8_t>(*byte)] = id;
      bytes_.emplace_back(1, *byte);
    } else {
      bytes_.push_back(special ? token : WithPlainSpaces(token));
    }
  }
  for (const TokenStrip& strip : vocabulary_.strips) {
    special_tokens_.SetStrip(vocabulary_.tokens[static_cast<size_t>(strip.id)], strip.left,
                             strip.right);
  }
}

std::vector<int32_t> CharacterBpe::Encode(std::string_view text,
                                          const EncodeOptions& options) const {
  std::string replaced;
  if (ValidUtf8Prefix(text) != text.size()) {
    replaced = ReplaceInvalidUtf8(text);
    text = replaced;
  }
  std::vector<int32_t> ids;
  ids.reserve(text.size() / 3 + 2);
  if (options.add_special_tokens && *vocabulary_.add_bos) ids.push_back(vocabulary_.bos_id);
  for (const auto& fragment : special_tokens_.Split(text, options.parse_special_tokens)) {
    if (fragment.token_id >= 0) {
      ids.push_back(fragment.token_id);
      continue;
    }
    const bool first = fragment.text.data() == text.data();
    const std::string normalised =
        (first ? options_.first_normalizer : options_.normalizer).Apply(fragment.text);
    if (options_.pre_tokenizer == nullptr) {
      EncodePiece(normalised, ids);
      continue;
    }
    for (std::string_view piece : options_.pre_tokenizer->Split(normalised)) {
      EncodePiece(piece, ids);
    }
  }
  if (options.add_special_tokens && vocabulary_.add_eos) ids.push_back(vocabulary_.eos_id);
  return ids;
}

void CharacterBpe::EncodePiece(std::string_view piece, std::vector<int32_t>& ids) const {
  if (options_.ignores_merges) {
    if (const auto it = ids_.find(piece); it != ids_.end()) {
      ids.push_back(it->second);
      return;
    }
  }
  std::vector<int32_t> symbols;
  AppendSymbols(piece, symbols);
  merges_.Apply(symbols);
  ids.insert(ids.end(), symbols.begin(), symbols.end());
}

void CharacterBpe::AppendSymbols(std::string_view piece, std::vector<int32_t>& symbols) const {
  symbols.reserve(piece.size());
  bool after_unknown = false;
  while (!piece.empty()) {
    const std::string_view character = piece.substr(0, ReadUtf8Head(piece).num_bytes);
    piece.remove_prefix(character.size());
    if (const auto it = ids_.find(character); it != ids_.end()) {
      symbols.push_back(it->second);
      after_unknown = false;
      continue;
    }
    bool has_bytes = options_.byte_fallback;
    for (const char c : character) {
      has_bytes = has_bytes && byte_ids_[static_cast<uint8_t>(c)] >= 0;
    }
    if (has_bytes) {
      for (const char c : character) symbols.push_back(byte_ids_[static_cast<uint8_t>(c)]);
      after_unknown = false;
    } else if (vocabulary_.unknown_id >= 0) {
      if (!after_unknown || !options_.fuse_unknown) symbols.push_back(vocabulary_.unknown_id);
      after_unknown = true;
    }
    // Without an unknown token the character vanishes, as in the reference.
  }
}

std::string CharacterBpe::TokenBytes(int32_t id) const {
  NSA_CHECK(id >= 0 && id < vocabulary_size());
  return bytes_[static_cast<size_t>(id)];
}

std::string CharacterBpe::Decode(const std::vector<int32_t>& ids, bool skip_special_tokens) const {
  std::string bytes;
  bool first = true;
  for (const int32_t id : ids) {
    const bool special = IsSpecial(id);
    if (special && skip_special_tokens) continue;
    std::string_view token = bytes_[static_cast<size_t>(id)];
    if (!special) {
      if (first && options_.strips_leading_space && token.starts_with(' ')) token.remove_prefix(1);
      first = false;
    }
    bytes += token;
  }
  return ReplaceInvalidUtf8(bytes);
}

bool CharacterBpe::IsSpecial(int32_t id) const {
  NSA_CHECK(id >= 0 && id < vocabulary_size());
  const TokenType type = vocabulary_.types[static_cast<size_t>(id)];
  return type == TokenType::kControl || type == TokenType::kUnknown;
}

}  // namespace nsa::engine
