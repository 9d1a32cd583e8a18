#include "engine/tokenizer/vocabulary.h"

#include <algorithm>
#include <array>
#include <limits>
#include <string_view>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_format.h"
#include "engine/weights/byte_cursor.h"
#include "engine/weights/gguf.h"

namespace nsa::engine {
namespace {

constexpr std::string_view kPrefix = "tokenizer.ggml.";
// Looked for at every place of a text.
constexpr size_t kMaxSpecialTokenBytes = 512;

std::string Key(std::string_view name) { return absl::StrFormat("%s%s", kPrefix, name); }

bool Has(const GgufFile& file, std::string_view name) {
  return file.FindValue(Key(name)) != nullptr;
}

// Leaves `out` as it is where the file has no such key.
absl::Status ReadId(const GgufFile& file, std::string_view name, size_t num_tokens, int32_t& out) {
  if (!Has(file, name)) return absl::OkStatus();
  const absl::StatusOr<int64_t> id = file.GetInt(Key(name));
  if (!id.ok()) return id.status();
  // Converters write 2^32 − 1 for "none".
  if (*id == -1 || *id == std::numeric_limits<uint32_t>::max()) return absl::OkStatus();
  if (*id < 0 || static_cast<size_t>(*id) >= num_tokens) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s is %d, but the vocabulary has %d tokens; convert the checkpoint again",
                        Key(name), *id, num_tokens));
  }
  out = static_cast<int32_t>(*id);
  return absl::OkStatus();
}

template <typename Flag>
absl::Status ReadFlag(const GgufFile& file, std::string_view name, Flag& out) {
  if (!Has(file, name)) return absl::OkStatus();
  const absl::StatusOr<bool> value = file.GetBool(Key(name));
  if (!value.ok()) return value.status();
  out = *value;
  return absl::OkStatus();
}

absl::Status ReadTokens(const GgufFile& file, Vocabulary& vocabulary) {
  const auto tokens = file.GetStrings(Key("tokens"));
  if (!tokens.ok()) return tokens.status();
  vocabulary.tokens.assign(tokens->begin(), tokens->end());
  for (size_t id = 0; id < vocabulary.tokens.size(); ++id) {
    // Some converters pad with empty names.
    if (vocabulary.tokens[id].empty()) vocabulary.tokens[id] = absl::StrFormat("[EMPTY_%d]", id);
  }
  vocabulary.types.assign(vocabulary.tokens.size(), TokenType::kNormal);
  if (Has(file, "token_type")) {
    const auto types = file.GetInts(Key("token_type"));
    if (!types.ok()) return types.status();
    vocabulary.types.clear();
    for (int64_t type : *types) {
      // Types that we do not know are never matched in text, as "unused" ones.
      const bool known = type >= 1 && type <= 6;
      vocabulary.types.push_back(known ? static_cast<TokenType>(type) : TokenType::kUnused);
    }
  }
  if (Has(file, "scores")) {
    const auto scores = file.GetFloats(Key("scores"));
    if (!scores.ok()) return scores.status();
    vocabulary.scores.assign(scores->begin(), scores->end());
  }
  if (Has(file, "merges")) {
    const auto merges = file.GetStrings(Key("merges"));
    if (!merges.ok()) return merges.status();
    vocabulary.merges.assign(merges->begin(), merges->end());
  }
  return absl::OkStatus();
}

absl::Status ReadIds(const GgufFile& file, Vocabulary& vocabulary) {
  const size_t num_tokens = vocabulary.tokens.size();
  if (auto s = ReadId(file, "bos_token_id", num_tokens, vocabulary.bos_id); !s.ok()) return s;
  if (auto s = ReadId(file, "eos_token_id", num_tokens, vocabulary.eos_id); !s.ok()) return s;
  if (auto s = ReadId(file, "unknown_token_id", num_tokens, vocabulary.unknown_id); !s.ok()) {
    return s;
  }
  if (vocabulary.eos_id >= 0) vocabulary.stop_ids.push_back(vocabulary.eos_id);
  for (std::string_view name : {"eot_token_id", "eom_token_id"}) {
    int32_t id = -1;
    if (auto s = ReadId(file, name, num_tokens, id); !s.ok()) return s;
    if (id >= 0) vocabulary.stop_ids.push_back(id);
  }
  return absl::OkStatus();
}

absl::Status CheckId(std::string_view name, int32_t id, size_t num_tokens, bool needed) {
  if (id >= static_cast<int64_t>(num_tokens) || (needed && id < 0)) {
    return absl::InvalidArgumentError(
        absl::StrFormat("the vocabulary's %s token is %d, expected one in [0, %d); convert the "
                        "checkpoint again with its tokenizer's configuration",
                        name, id, num_tokens));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Vocabulary> ReadVocabulary(const GgufFile& file) {
  Vocabulary vocabulary;
  const auto model = file.GetString(Key("model"));
  if (!model.ok()) return model.status();
  if (Has(file, "pre")) {
    const auto pre = file.GetString(Key("pre"));
    if (!pre.ok()) return pre.status();
    vocabulary.pre = std::string(*pre);
  }
  // SentencePiece checkpoints came first; their files leave out what every one of them wants.
  if (*model == "llama") {
    vocabulary.add_bos = true;
    vocabulary.add_space_prefix = true;
  }
  if (auto s = ReadTokens(file, vocabulary); !s.ok()) return s;
  if (auto s = ReadIds(file, vocabulary); !s.ok()) return s;
  if (*model == "llama") {
    const bool three = vocabulary.tokens.size() > 2;
    if (vocabulary.bos_id < 0 && three) vocabulary.bos_id = 1;
    if (vocabulary.unknown_id < 0 && three) vocabulary.unknown_id = 0;
    if (vocabulary.eos_id < 0 && three) {
      vocabulary.eos_id = 2;
      vocabulary.stop_ids.push_back(2);
    }
  }
  if (auto s = ReadFlag(file, "add_bos_token", vocabulary.add_bos); !s.ok()) return s;
  if (auto s = ReadFlag(file, "add_eos_token", vocabulary.add_eos); !s.ok()) return s;
  if (auto s = ReadFlag(file, "add_space_prefix", vocabulary.add_space_prefix); !s.ok()) return s;
  AddStopTokensByName(vocabulary);
  return vocabulary;
}

absl::Status CheckVocabulary(const Vocabulary& vocabulary) {
  const size_t num_tokens = vocabulary.tokens.size();
  if (num_tokens == 0 || num_tokens > (size_t{1} << 24)) {
    return absl::InvalidArgumentError(
        absl::StrFormat("the vocabulary has %d tokens, expected 1 to 2^24", num_tokens));
  }
  if (vocabulary.types.size() != num_tokens ||
      (!vocabulary.scores.empty() && vocabulary.scores.size() != num_tokens)) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "the vocabulary has %d tokens, but %d token types and %d scores; convert the checkpoint "
        "again",
        num_tokens, vocabulary.types.size(), vocabulary.scores.size()));
  }
  absl::flat_hash_map<std::string_view, size_t> seen;
  seen.reserve(num_tokens);
  for (size_t id = 0; id < num_tokens; ++id) {
    const auto [it, inserted] = seen.try_emplace(vocabulary.tokens[id], id);
    if (!inserted || vocabulary.tokens[id].empty()) {
      return absl::InvalidArgumentError(
          absl::StrFormat("the vocabulary's tokens %d and %d are both %s, expected unique names",
                          it->second, id, Quoted(vocabulary.tokens[id])));
    }
    const TokenType type = vocabulary.types[id];
    const bool searched = type == TokenType::kControl || type == TokenType::kUserDefined;
    if (searched && vocabulary.tokens[id].size() > kMaxSpecialTokenBytes) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "the vocabulary's token %d, %s, is special and has %d bytes, expected at most %d", id,
          Quoted(vocabulary.tokens[id]), vocabulary.tokens[id].size(), kMaxSpecialTokenBytes));
    }
  }
  if (auto s = CheckId("begin-of-sequence", vocabulary.bos_id, num_tokens,
                       vocabulary.add_bos.value_or(false));
      !s.ok()) {
    return s;
  }
  if (auto s = CheckId("end-of-sequence", vocabulary.eos_id, num_tokens, vocabulary.add_eos);
      !s.ok()) {
    return s;
  }
  return CheckId("unknown", vocabulary.unknown_id, num_tokens, false);
}

void AddStopTokensByName(Vocabulary& vocabulary) {
  static constexpr std::array<std::string_view, 10> kNames = {
      "<|eot_id|>", "<|im_end|>",      "<|end|>",    "<end_of_turn>",   "<|endoftext|>",
      "<|eom_id|>", "<|end_of_text|>", "<|return|>", "<|end_of_turn|>", "<｜end▁of▁sentence｜>",
  };
  std::vector<int32_t>& stop_ids = vocabulary.stop_ids;
  for (size_t id = 0; id < vocabulary.tokens.size(); ++id) {
    const bool named =
        std::find(kNames.begin(), kNames.end(), vocabulary.tokens[id]) != kNames.end();
    // Only control tokens: text that a model may well write as text must not end its answer.
    if (named && vocabulary.types[id] == TokenType::kControl) {
      stop_ids.push_back(static_cast<int32_t>(id));
    }
  }
  std::sort(stop_ids.begin(), stop_ids.end());
  stop_ids.erase(std::unique(stop_ids.begin(), stop_ids.end()), stop_ids.end());
}

}  // namespace nsa::engine
