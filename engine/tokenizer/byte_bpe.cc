#include "engine/tokenizer/byte_bpe.h"

#include <optional>
#include <utility>

#include "absl/strings/str_format.h"
#include "engine/tokenizer/utf8.h"
#include "kernels/check.h"

namespace nsa::engine {
namespace {

// Vocabularies are text files, so GPT-2 writes each byte as a printable character: itself where it
// is one in Latin-1, else the next free one from U+0100 on.
std::array<uint16_t, 256> ByteCharacters() {
  std::array<uint16_t, 256> characters;
  uint16_t next = 256;
  for (int byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte != 0xAD);
    characters[byte] = printable ? static_cast<uint16_t>(byte) : next++;
  }
  return characters;
}

// The bytes that a vocabulary's text stands for; nothing where it is not in GPT-2's alphabet.
std::optional<std::string> FromByteCharacters(std::string_view text) {
  static const absl::flat_hash_map<uint16_t, char>* const kBytes = [] {
    auto* bytes = new absl::flat_hash_map<uint16_t, char>();
    const std::array<uint16_t, 256> characters = ByteCharacters();
    for (int byte = 0; byte < 256; ++byte) (*bytes)[characters[byte]] = static_cast<char>(byte);
    return bytes;
  }();
  std::string bytes;
  while (!text.empty()) {
    const Utf8Head head = ReadUtf8Head(text);
    // The alphabet ends at U+0143: one or two bytes a character.
    if (head.kind != Utf8Head::Kind::kCharacter || head.num_bytes > 2) return std::nullopt;
    const uint8_t first = static_cast<uint8_t>(text[0]);
    const uint16_t character =
        head.num_bytes == 1 ? first : (first & 0x1F) << 6 | (static_cast<uint8_t>(text[1]) & 0x3F);
    const auto it = kBytes->find(character);
    if (it == kBytes->end()) return std::nullopt;
    bytes.push_back(it->second);
    text.remove_prefix(head.num_bytes);
  }
  return bytes;
}

}  // namespace

absl::StatusOr<std::unique_ptr<ByteBpe>> ByteBpe::Create(Vocabulary vocabulary) {
  auto pre_tokenizer = PreTokenizer::Create(vocabulary.pre);
  if (!pre_tokenizer.ok()) return pre_tokenizer.status();
  return Create(std::move(vocabulary), *std::move(pre_tokenizer), Normalizer());
}

absl::StatusOr<std::unique_ptr<ByteBpe>> ByteBpe::Create(
    Vocabulary vocabulary, std::unique_ptr<PreTokenizer> pre_tokenizer, Normalizer normalizer) {
  vocabulary.add_bos = vocabulary.add_bos.value_or(pre_tokenizer->adds_bos());
  if (absl::Status status = CheckVocabulary(vocabulary); !status.ok()) return status;

  std::unique_ptr<ByteBpe> bpe(new ByteBpe());
  bpe->pre_tokenizer_ = std::move(pre_tokenizer);
  bpe->normalizer_ = std::move(normalizer);
  bpe->vocabulary_ = std::move(vocabulary);
  const std::vector<std::string>& tokens = bpe->vocabulary_.tokens;
  bpe->byte_ids_.fill(-1);
  bpe->bytes_.reserve(tokens.size());
  absl::flat_hash_map<std::string_view, int32_t> ids;
  ids.reserve(tokens.size());
  for (size_t i = 0; i < tokens.size(); ++i) {
    const int32_t id = static_cast<int32_t>(i);
    const TokenType type = bpe->vocabulary_.types[i];
    ids.emplace(tokens[i], id);
    if (type == TokenType::kNormal || type == TokenType::kByte) {
      bpe->bytes_.push_back(FromByteCharacters(tokens[i]).value_or(tokens[i]));
      const std::string& bytes = bpe->bytes_.back();
      if (bytes.size() == 1) bpe->byte_ids_[static_cast<uint8_t>(bytes[0])] = id;
    } else {
      bpe->bytes_.push_back(tokens[i]);
    }
    if (type == TokenType::kControl || type == TokenType::kUnknown ||
        type == TokenType::kUserDefined) {
      bpe->special_tokens_.Add(tokens[i], id, type == TokenType::kUserDefined);
    }
  }
  for (const TokenStrip& strip : bpe->vocabulary_.strips) {
    bpe->special_tokens_.SetStrip(tokens[static_cast<size_t>(strip.id)], strip.left, strip.right);
  }
  auto merges = BpeMerges::Create(bpe->vocabulary_.merges, ids);
  if (!merges.ok()) return merges.status();
  bpe->merges_ = *std::move(merges);
  bpe->vocabulary_.merges = {};
  bpe->IndexWholePieces();
  return bpe;
}

void ByteBpe::IndexWholePieces() {
  std::vector<int32_t> symbols;
  for (size_t i = 0; i < bytes_.size(); ++i) {
    if (vocabulary_.types[i] != TokenType::kNormal) continue;
    const int32_t id = static_cast<int32_t>(i);
    bool whole = pre_tokenizer_->ignores_merges();
    if (!whole) {
      symbols.clear();
      AppendSymbols(bytes_[i], symbols);
      merges_.Apply(symbols);
      whole = symbols.size() == 1 && symbols[0] == id;
    }
    if (whole) whole_pieces_.try_emplace(bytes_[i], id);
  }
}

std::vector<int32_t> ByteBpe::Encode(std::string_view text, const EncodeOptions& options) const {
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
    // Only where there is something to do: most vocabularies take text as it is.
    std::string normalised;
    std::string_view fragment_text = fragment.text;
    if (!normalizer_.empty()) {
      normalised = normalizer_.Apply(fragment.text);
      fragment_text = normalised;
    }
    for (std::string_view piece : pre_tokenizer_->Split(fragment_text)) EncodePiece(piece, ids);
  }
  if (options.add_special_tokens && vocabulary_.add_eos) ids.push_back(vocabulary_.eos_id);
  return ids;
}

void ByteBpe::EncodePiece(std::string_view piece, std::vector<int32_t>& ids) const {
  const auto it = whole_pieces_.find(piece);
  if (it != whole_pieces_.end()) {
    ids.push_back(it->second);
    return;
  }
  std::vector<int32_t> symbols;
  AppendSymbols(piece, symbols);
  merges_.Apply(symbols);
  ids.insert(ids.end(), symbols.begin(), symbols.end());
}

void ByteBpe::AppendSymbols(std::string_view piece, std::vector<int32_t>& symbols) const {
  symbols.reserve(piece.size());
  for (char c : piece) {
    // A byte that the vocabulary lacks vanishes, as in the reference: there is no token to say it.
    const int32_t id = byte_ids_[static_cast<uint8_t>(c)];
    if (id >= 0) symbols.push_back(id);
  }
}

std::string ByteBpe::TokenBytes(int32_t id) const {
  NSA_CHECK(id >= 0 && id < vocabulary_size());
  return bytes_[id];
}

std::string ByteBpe::Decode(const std::vector<int32_t>& ids, bool skip_special_tokens) const {
  std::string bytes;
  for (int32_t id : ids) {
    NSA_CHECK(id >= 0 && id < vocabulary_size());
    if (skip_special_tokens && IsSpecial(id)) continue;
    bytes += bytes_[id];
  }
  return ReplaceInvalidUtf8(bytes);
}

bool ByteBpe::IsSpecial(int32_t id) const {
  NSA_CHECK(id >= 0 && id < vocabulary_size());
  const TokenType type = vocabulary_.types[id];
  return type == TokenType::kControl || type == TokenType::kUnknown;
}

std::string ByteBpe::kind() const {
  return absl::StrFormat("bpe/%s", vocabulary_.pre.empty() ? "default" : vocabulary_.pre);
}

}  // namespace nsa::engine
