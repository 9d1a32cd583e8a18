#include "engine/tokenizer/tokenizer_json.h"

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/text.h"
#include "engine/tokenizer/byte_bpe.h"
#include "engine/tokenizer/character_bpe.h"
#include "engine/tokenizer/tokenizer_json_fields.h"
#include "engine/tokenizer/tokenizer_pipeline.h"
#include "engine/weights/byte_cursor.h"

namespace nsa::engine {
namespace {

using nlohmann::json;

// Ids beyond the number of tokens, which some checkpoints leave unused: a table of ids must not
// take more memory than the file justifies.
constexpr size_t kMaxUnusedIds = size_t{1} << 16;

/// Tokens, types, merges and special ids.
class VocabularyReader {
 public:
  VocabularyReader(const json& document, const TokenizerSettings& settings)
      : document_(document), settings_(settings) {}

  absl::StatusOr<Vocabulary> Read(const json& model);

 private:
  absl::Status Place(const std::string& token, const json& id, TokenType type);
  absl::Status ReadMerges(const json& model);
  absl::Status ReadAddedTokens();
  absl::Status ReadTemplate(const json& processor);
  absl::Status CheckTemplateId(const json& processor, const std::string& token, int32_t id) const;
  absl::Status ReadIds(const json& model);
  void ApplySettings();
  int32_t IdOf(std::string_view token) const {
    const auto it = std::ranges::find(vocabulary_.tokens, token);
    return it == vocabulary_.tokens.end() ? -1
                                          : static_cast<int32_t>(it - vocabulary_.tokens.begin());
  }

  const json& document_;
  const TokenizerSettings& settings_;
  size_t max_tokens_ = 0;
  Vocabulary vocabulary_;
};

absl::Status VocabularyReader::Place(const std::string& token, const json& id, TokenType type) {
  if (!id.is_number_unsigned() || id.get<uint64_t>() >= max_tokens_) {
    return absl::InvalidArgumentError(absl::StrCat("token ", Quoted(token), " has id ",
                                                   Quoted(id.dump()), ", expected 0 to ",
                                                   max_tokens_ - 1));
  }
  const auto index = id.get<size_t>();
  if (index >= vocabulary_.tokens.size()) {
    vocabulary_.tokens.resize(index + 1);
    vocabulary_.types.resize(index + 1, TokenType::kUnused);
  }
  const std::string& there = vocabulary_.tokens[index];
  if (!there.empty() && there != token) {
    return absl::InvalidArgumentError(
        absl::StrCat("tokens ", Quoted(there), " and ", Quoted(token), " both have id ", index));
  }
  vocabulary_.tokens[index] = token;
  vocabulary_.types[index] = type;
  return absl::OkStatus();
}

absl::Status VocabularyReader::ReadMerges(const json& model) {
  const json* merges = Member(model, "merges");
  if (merges == nullptr) return absl::OkStatus();
  if (!merges->is_array()) return absl::InvalidArgumentError("model.merges is no array");
  for (const json& merge : *merges) {
    if (merge.is_string()) {
      vocabulary_.merges.push_back(merge.get<std::string>());
      continue;
    }
    const bool pair =
        merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string();
    // A space joins the parts below, so none may have one.
    if (!pair || merge[0].get_ref<const std::string&>().find(' ') != std::string::npos ||
        merge[1].get_ref<const std::string&>().find(' ') != std::string::npos) {
      return absl::InvalidArgumentError(
          absl::StrCat("model.merges[", vocabulary_.merges.size(), "] is ",
                       Quoted(merge.dump(-1, ' ', false, json::error_handler_t::replace)),
                       ", expected two strings without spaces"));
    }
    vocabulary_.merges.push_back(
        absl::StrCat(merge[0].get<std::string>(), " ", merge[1].get<std::string>()));
  }
  return absl::OkStatus();
}

absl::Status VocabularyReader::ReadAddedTokens() {
  const json* added = Member(document_, "added_tokens");
  if (added == nullptr) return absl::OkStatus();
  for (const json& token : *added) {
    const std::string content = Text(token, "content");
    const json* id = Member(token, "id");
    if (content.empty() || id == nullptr) {
      return absl::InvalidArgumentError("an added token has no content or no id");
    }
    if (Flag(token, "single_word", false)) {
      return absl::UnimplementedError(
          absl::StrCat("added token ", Quoted(content), " with single_word is not known"));
    }
    // Models of text alone keep the names of tokens for images, for which they have no row.
    const bool beyond = settings_.max_tokens > 0 && id->is_number_unsigned() &&
                        id->get<uint64_t>() >= settings_.max_tokens;
    if (beyond) continue;
    const bool special = Flag(token, "special", false);
    const TokenType type = special ? TokenType::kControl : TokenType::kUserDefined;
    if (absl::Status status = Place(content, *id, type); !status.ok()) return status;
    const TokenStrip strip{.id = id->get<int32_t>(),
                           .left = Flag(token, "lstrip", false),
                           .right = Flag(token, "rstrip", false)};
    if (strip.left || strip.right) vocabulary_.strips.push_back(strip);
  }
  return absl::OkStatus();
}

/// "special_tokens": {"<s>": {"ids": [1], …}}: what the reference in fact adds.
absl::Status VocabularyReader::CheckTemplateId(const json& processor, const std::string& token,
                                               int32_t id) const {
  const json* all = Member(processor, "special_tokens");
  const json* entry = all == nullptr ? nullptr : Member(*all, token.c_str());
  const json* ids = entry == nullptr ? nullptr : Member(*entry, "ids");
  if (ids == nullptr || *ids == json::array({id})) return absl::OkStatus();
  return absl::UnimplementedError(absl::StrCat("TemplateProcessing: token ", Quoted(token),
                                               " has ids other than its own, ", id));
}

/// "single": [{"SpecialToken": {"id": "<s>"}}, {"Sequence": …}, …].
absl::Status VocabularyReader::ReadTemplate(const json& processor) {
  const std::string type = Type(processor);
  if (type == "ByteLevel") return absl::OkStatus();
  if (type != "TemplateProcessing") return UnknownComponent("a post-processor", processor);
  const json* single = Member(processor, "single");
  if (single == nullptr || !single->is_array()) {
    return absl::InvalidArgumentError("TemplateProcessing has no array 'single'");
  }
  bool before = true;
  for (const json& item : *single) {
    if (Member(item, "Sequence") != nullptr) {
      before = false;
      continue;
    }
    const json* special = Member(item, "SpecialToken");
    const std::string token = special == nullptr ? "" : Text(*special, "id");
    const int32_t id = IdOf(token);
    bool& flag = before ? vocabulary_.add_bos.emplace(vocabulary_.add_bos.value_or(false))
                        : vocabulary_.add_eos;
    if (id < 0 || flag) {
      return absl::UnimplementedError(
          "TemplateProcessing: expected at most one token before the text and one after it");
    }
    if (absl::Status s = CheckTemplateId(processor, token, id); !s.ok()) return s;
    flag = true;
    (before ? vocabulary_.bos_id : vocabulary_.eos_id) = id;
  }
  return absl::OkStatus();
}

/// Flags in tokenizer_config.json count before the template.
void VocabularyReader::ApplySettings() {
  if (settings_.add_bos.has_value()) {
    vocabulary_.add_bos = settings_.add_bos;
    const int32_t id = IdOf(settings_.bos_token);
    if (id >= 0) vocabulary_.bos_id = id;
  }
  if (settings_.add_eos.has_value()) {
    vocabulary_.add_eos = *settings_.add_eos;
    const int32_t id = IdOf(settings_.eos_token);
    if (id >= 0) vocabulary_.eos_id = id;
  }
}

absl::Status VocabularyReader::ReadIds(const json& model) {
  vocabulary_.bos_id = IdOf(settings_.bos_token);
  vocabulary_.eos_id = IdOf(settings_.eos_token);
  vocabulary_.unknown_id = IdOf(Text(model, "unk_token"));
  if (vocabulary_.unknown_id >= 0) {
    vocabulary_.types[static_cast<size_t>(vocabulary_.unknown_id)] = TokenType::kUnknown;
  }
  if (vocabulary_.eos_id >= 0) vocabulary_.stop_ids.push_back(vocabulary_.eos_id);
  vocabulary_.add_bos = false;
  absl::Status status = ForEachComponent(Member(document_, "post_processor"), "processors",
                                         [&](const json& part) { return ReadTemplate(part); });
  if (!status.ok()) return status;
  ApplySettings();
  for (const int64_t id : settings_.stop_ids) {
    if (id < 0 || id >= static_cast<int64_t>(vocabulary_.tokens.size())) {
      return absl::InvalidArgumentError(
          absl::StrCat("end token ", id, ", expected 0 to ", vocabulary_.tokens.size() - 1));
    }
    vocabulary_.stop_ids.push_back(static_cast<int32_t>(id));
  }
  AddStopTokensByName(vocabulary_);
  return absl::OkStatus();
}

absl::StatusOr<Vocabulary> VocabularyReader::Read(const json& model) {
  const json* tokens = Member(model, "vocab");
  if (tokens == nullptr || !tokens->is_object()) {
    return absl::InvalidArgumentError("model.vocab is missing or no object");
  }
  const json* added = Member(document_, "added_tokens");
  max_tokens_ = tokens->size() + (added == nullptr ? 0 : added->size()) + kMaxUnusedIds;
  for (const auto& [token, id] : tokens->items()) {
    if (absl::Status s = Place(token, id, TokenType::kNormal); !s.ok()) return s;
  }
  if (absl::Status s = ReadMerges(model); !s.ok()) return s;
  if (absl::Status s = ReadAddedTokens(); !s.ok()) return s;
  for (size_t id = 0; id < vocabulary_.tokens.size(); ++id) {
    std::string& token = vocabulary_.tokens[id];
    if (token.empty()) token = absl::StrCat("[UNUSED_", id, "]");
  }
  if (absl::Status s = ReadIds(model); !s.ok()) return s;
  return std::move(vocabulary_);
}

absl::Status CheckModel(const json* model) {
  if (model == nullptr) return absl::InvalidArgumentError("'model' is missing");
  // Files of old versions leave the type out; those models have merges.
  const std::string type = Text(*model, "type", Member(*model, "merges") ? "BPE" : "");
  if (type != "BPE") {
    return absl::UnimplementedError(
        absl::StrCat("model.type is ", Quoted(type), "; this server knows: BPE"));
  }
  for (const char* affix : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    if (Text(*model, affix).empty()) continue;
    return absl::UnimplementedError(absl::StrCat("model.", affix, " is not known"));
  }
  if (const json* dropout = Member(*model, "dropout"); dropout != nullptr && *dropout != 0) {
    return absl::UnimplementedError("model.dropout draws tokens at random, which is not served");
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<Tokenizer>> Build(const json& document,
                                                 const TokenizerSettings& settings) {
  if (absl::Status status = CheckTokenizerFields(document); !status.ok()) return status;
  const json* model = Member(document, "model");
  if (absl::Status status = CheckModel(model); !status.ok()) return status;
  auto pipeline = ReadPipeline(document);
  if (!pipeline.ok()) return pipeline.status();
  auto vocabulary = VocabularyReader(document, settings).Read(*model);
  if (!vocabulary.ok()) return vocabulary.status();
  const bool ignores_merges = Flag(*model, "ignore_merges", false);
  std::unique_ptr<PreTokenizer> pre_tokenizer;
  if (!pipeline->stages.empty() || pipeline->byte_level) {
    auto made = PreTokenizer::FromStages(pipeline->stages, ignores_merges);
    if (!made.ok()) return made.status();
    pre_tokenizer = *std::move(made);
  }
  if (pipeline->byte_level) {
    vocabulary->pre = "tokenizer.json";
    return ByteBpe::Create(*std::move(vocabulary), std::move(pre_tokenizer),
                           std::move(pipeline->normalizer));
  }
  CharacterBpe::Options options;
  options.normalizer = std::move(pipeline->normalizer);
  options.first_normalizer = std::move(pipeline->first_normalizer);
  options.pre_tokenizer = std::move(pre_tokenizer);
  options.byte_fallback = Flag(*model, "byte_fallback", false);
  options.fuse_unknown = Flag(*model, "fuse_unk", false);
  options.ignores_merges = ignores_merges;
  options.strips_leading_space = pipeline->strips_leading_space;
  return CharacterBpe::Create(*std::move(vocabulary), std::move(options));
}

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> LoadTokenizerJson(const JsonConfig& file,
                                                             const TokenizerSettings& settings) {
  auto tokenizer = Build(file.document(), settings);
  if (tokenizer.ok()) return tokenizer;
  return absl::Status(tokenizer.status().code(),
                      absl::StrCat(file.path(), ": ", tokenizer.status().message()));
}

}  // namespace nsa::engine
