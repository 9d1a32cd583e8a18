#include "engine/tokenizer/byte_bpe.h"

#include <functional>
#include <limits>
#include <optional>
#include <queue>
#include <utility>

#include "absl/strings/str_format.h"
#include "engine/tokenizer/utf8.h"
#include "kernels/check.h"

namespace nsa::engine {
namespace {

// Above this many symbols a heap beats looking for the best pair again after every merge.
constexpr size_t kShortPiece = 32;

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

uint64_t PairKey(int32_t left, int32_t right) {
  return uint64_t{static_cast<uint32_t>(left)} << 32 | static_cast<uint32_t>(right);
}

}  // namespace

absl::StatusOr<std::unique_ptr<ByteBpe>> ByteBpe::Create(Vocabulary vocabulary) {
  auto pre_tokenizer = PreTokenizer::Create(vocabulary.pre);
  if (!pre_tokenizer.ok()) return pre_tokenizer.status();
  vocabulary.add_bos = vocabulary.add_bos.value_or((*pre_tokenizer)->adds_bos());
  if (absl::Status status = CheckVocabulary(vocabulary); !status.ok()) return status;

  std::unique_ptr<ByteBpe> bpe(new ByteBpe());
  bpe->pre_tokenizer_ = *std::move(pre_tokenizer);
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
  if (absl::Status status = bpe->ReadMerges(ids); !status.ok()) return status;
  bpe->IndexWholePieces();
  return bpe;
}

absl::Status ByteBpe::ReadMerges(const absl::flat_hash_map<std::string_view, int32_t>& ids) {
  const std::vector<std::string>& merges = vocabulary_.merges;
  merges_.reserve(merges.size());
  for (size_t rank = 0; rank < merges.size(); ++rank) {
    const std::string& merge = merges[rank];
    // From the second byte on: a part may be a space itself only in files of other alphabets.
    const size_t space = merge.find(' ', 1);
    const auto fail = [&](std::string_view what) {
      return absl::InvalidArgumentError(
          absl::StrFormat("tokenizer.ggml.merges[%d] is \"%s\": %s; convert the checkpoint again",
                          rank, merge, what));
    };
    if (space == std::string::npos) return fail("expected two parts with a space between them");
    const std::string left = merge.substr(0, space);
    const std::string right = merge.substr(space + 1);
    const auto left_it = ids.find(left);
    const auto right_it = ids.find(right);
    const auto joined_it = ids.find(left + right);
    if (left_it == ids.end() || right_it == ids.end() || joined_it == ids.end()) {
      return fail("both parts and the whole must be in tokenizer.ggml.tokens");
    }
    // The first of two equal lines counts, as it has the better rank.
    merges_.try_emplace(PairKey(left_it->second, right_it->second),
                        Merge{static_cast<int32_t>(rank), joined_it->second});
  }
  vocabulary_.merges.clear();
  vocabulary_.merges.shrink_to_fit();
  return absl::OkStatus();
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
      MergeAll(symbols);
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
    for (std::string_view piece : pre_tokenizer_->Split(fragment.text)) EncodePiece(piece, ids);
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
  MergeAll(symbols);
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

const ByteBpe::Merge* ByteBpe::FindMerge(int32_t left, int32_t right) const {
  const auto it = merges_.find(PairKey(left, right));
  return it == merges_.end() ? nullptr : &it->second;
}

void ByteBpe::MergeAll(std::vector<int32_t>& symbols) const {
  if (symbols.size() <= kShortPiece) {
    MergeShort(symbols);
  } else {
    MergeLong(symbols);
  }
}

// The best pair first, the leftmost of equals; pairs[i] is the merge of symbols i and i + 1.
void ByteBpe::MergeShort(std::vector<int32_t>& symbols) const {
  constexpr Merge kNone = {std::numeric_limits<int32_t>::max(), -1};
  const auto merge_at = [&](size_t i) {
    const Merge* merge = FindMerge(symbols[i], symbols[i + 1]);
    return merge == nullptr ? kNone : *merge;
  };
  std::array<Merge, kShortPiece> pairs;
  for (size_t i = 0; i + 1 < symbols.size(); ++i) pairs[i] = merge_at(i);
  while (symbols.size() > 1) {
    size_t best = 0;
    for (size_t i = 1; i + 1 < symbols.size(); ++i) {
      if (pairs[i].rank < pairs[best].rank) best = i;
    }
    if (pairs[best].id < 0) return;
    symbols[best] = pairs[best].id;
    for (size_t i = best + 1; i + 2 < symbols.size(); ++i) pairs[i] = pairs[i + 1];
    symbols.erase(symbols.begin() + static_cast<ptrdiff_t>(best) + 1);
    if (best + 1 < symbols.size()) pairs[best] = merge_at(best);
    if (best > 0) pairs[best - 1] = merge_at(best - 1);
  }
}

// The same order with a heap of (rank, position) over a linked list: n log n for text without any
// split, such as a megabyte of one letter. Entries that a merge has made stale are seen when
// popped.
void ByteBpe::MergeLong(std::vector<int32_t>& symbols) const {
  NSA_CHECK(symbols.size() < std::numeric_limits<uint32_t>::max());
  const uint32_t size = static_cast<uint32_t>(symbols.size());
  constexpr int32_t kGone = -1;
  std::vector<uint32_t> next(size);
  std::vector<uint32_t> previous(size);
  for (uint32_t i = 0; i < size; ++i) {
    next[i] = i + 1;
    previous[i] = i - 1;  // wraps for 0, which nothing reads
  }
  std::vector<uint64_t> entries;
  entries.reserve(size);
  const auto entry_at = [&](uint32_t i) -> std::optional<uint64_t> {
    const Merge* merge = next[i] < size ? FindMerge(symbols[i], symbols[next[i]]) : nullptr;
    if (merge == nullptr) return std::nullopt;
    return uint64_t{static_cast<uint32_t>(merge->rank)} << 32 | i;
  };
  for (uint32_t i = 0; i < size; ++i) {
    if (const auto entry = entry_at(i)) entries.push_back(*entry);
  }
  std::priority_queue<uint64_t, std::vector<uint64_t>, std::greater<>> heap(std::greater<>(),
                                                                            std::move(entries));
  while (!heap.empty()) {
    const uint32_t left = static_cast<uint32_t>(heap.top());
    const int32_t rank = static_cast<int32_t>(heap.top() >> 32);
    heap.pop();
    if (symbols[left] == kGone || next[left] >= size) continue;
    const uint32_t right = next[left];
    const Merge* merge = FindMerge(symbols[left], symbols[right]);
    if (merge == nullptr || merge->rank != rank) continue;
    symbols[left] = merge->id;
    symbols[right] = kGone;
    next[left] = next[right];
    if (next[left] < size) previous[next[left]] = left;
    if (const auto entry = entry_at(left)) heap.push(*entry);
    if (left > 0) {
      if (const auto entry = entry_at(previous[left])) heap.push(*entry);
    }
  }
  std::erase(symbols, kGone);
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
