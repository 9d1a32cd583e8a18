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
#include "engine/tokenizer/oniguruma.h"
#include "engine/tokenizer/piece_text.h"
#include "engine/weights/byte_cursor.h"

namespace nsa::engine {
namespace {

using nlohmann::json;

// Ids beyond the number of tokens, which some checkpoints leave unused: a table of ids must not
// take more memory than the file justifies.
constexpr size_t kMaxUnusedIds = size_t{1} << 16;
// GPT-2's split, which the component "ByteLevel" does by default.
constexpr std::string_view kByteLevelPattern =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

/// The member `name`; null where there is none.
const json* Member(const json& object, const char* name) {
  if (!object.is_object()) return nullptr;
  const auto it = object.find(name);
  return it == object.end() || it->is_null() ? nullptr : &*it;
}

std::string Text(const json& object, const char* name, std::string_view otherwise = "") {
  const json* member = Member(object, name);
  return member != nullptr && member->is_string() ? member->get<std::string>()
                                                  : std::string(otherwise);
}

bool Flag(const json& object, const char* name, bool otherwise) {
  const json* member = Member(object, name);
  return member != nullptr && member->is_boolean() ? member->get<bool>() : otherwise;
}

std::string Type(const json& component) { return Text(component, "type"); }

absl::Status Unknown(std::string_view what, const json& component) {
  return absl::UnimplementedError(
      absl::StrCat(View(what), " of type ", Quoted(Type(component)), " is not known"));
}

/// Calls visit(component) for `component`, or for each member `list` of a Sequence.
template <typename Visit>
absl::Status ForEach(const json* component, const char* list, const Visit& visit) {
  if (component == nullptr) return absl::OkStatus();
  if (Type(*component) != "Sequence") return visit(*component);
  const json* members = Member(*component, list);
  if (members == nullptr || !members->is_array()) {
    return absl::InvalidArgumentError(absl::StrCat("a Sequence has no array '", list, "'"));
  }
  for (const json& member : *members) {
    if (absl::Status status = ForEach(&member, list, visit); !status.ok()) return status;
  }
  return absl::OkStatus();
}

/// What the file's components amount to.
struct Pipeline {
  Normalizer normalizer;        // of every text
  Normalizer first_normalizer;  // of the head of the text
  std::vector<SplitStage> stages;
  bool byte_level = false;
  bool strips_leading_space = false;
};

class PipelineReader {
 public:
  absl::StatusOr<Pipeline> Read(const json& document) {
    absl::Status status = ForEach(Member(document, "normalizer"), "normalizers",
                                  [&](const json& part) { return ReadNormalizer(part); });
    if (!status.ok()) return status;
    status = ForEach(Member(document, "pre_tokenizer"), "pretokenizers",
                     [&](const json& part) { return ReadPreTokenizer(part); });
    if (!status.ok()) return status;
    status = ForEach(Member(document, "decoder"), "decoders",
                     [&](const json& part) { return ReadDecoder(part); });
    if (!status.ok()) return status;
    return std::move(pipeline_);
  }

 private:
  template <typename Add>
  void AddToBoth(const Add& add) {
    add(pipeline_.normalizer);
    add(pipeline_.first_normalizer);
  }

  absl::Status ReadNormalizer(const json& part);
  absl::Status ReadPreTokenizer(const json& part);
  absl::Status ReadMetaspace(const json& part);
  absl::Status ReadSplit(const json& part);
  absl::Status ReadDecoder(const json& part);

  Pipeline pipeline_;
};

absl::Status PipelineReader::ReadNormalizer(const json& part) {
  static constexpr std::pair<std::string_view, Normalizer::Form> kForms[] = {
      {"NFC", Normalizer::Form::kNfc},
      {"NFD", Normalizer::Form::kNfd},
      {"NFKC", Normalizer::Form::kNfkc},
      {"NFKD", Normalizer::Form::kNfkd}};
  const std::string type = Type(part);
  for (const auto& [name, form] : kForms) {
    if (type != name) continue;
    AddToBoth([&](Normalizer& normalizer) { normalizer.AddForm(form); });
    return absl::OkStatus();
  }
  if (type == "Prepend") {
    AddToBoth([&](Normalizer& normalizer) { normalizer.AddPrepend(Text(part, "prepend")); });
    return absl::OkStatus();
  }
  if (type == "Replace") {
    const json* pattern = Member(part, "pattern");
    const std::string from = pattern == nullptr ? "" : Text(*pattern, "String");
    if (from.empty()) {
      return absl::UnimplementedError(
          "a normalizer Replace whose pattern is no string is not known");
    }
    AddToBoth([&](Normalizer& normalizer) { normalizer.AddReplace(from, Text(part, "content")); });
    return absl::OkStatus();
  }
  return Unknown("a normalizer", part);
}

absl::Status PipelineReader::ReadPreTokenizer(const json& part) {
  const std::string type = Type(part);
  if (type == "ByteLevel") {
    pipeline_.byte_level = true;
    if (Flag(part, "add_prefix_space", true)) {
      if (!pipeline_.stages.empty()) {
        return absl::UnimplementedError("ByteLevel with add_prefix_space behind another split");
      }
      AddToBoth([](Normalizer& normalizer) { normalizer.AddPrepend(" ", " "); });
    }
    if (Flag(part, "use_regex", true)) {
      pipeline_.stages.push_back({.pattern = ToPcre2(kByteLevelPattern)});
    }
    return absl::OkStatus();
  }
  if (type == "Digits") {
    const bool one = Flag(part, "individual_digits", false);
    pipeline_.stages.push_back({.pattern = one ? "\\p{N}" : "\\p{N}+"});
    return absl::OkStatus();
  }
  if (type == "Split") return ReadSplit(part);
  if (type == "Metaspace") return ReadMetaspace(part);
  return Unknown("a pre-tokenizer", part);
}

absl::Status PipelineReader::ReadMetaspace(const json& part) {
  const std::string space = Text(part, "replacement", kVisibleSpace);
  // Before tokenizers 0.19 the scheme was a flag.
  const bool old_flag = Flag(part, "add_prefix_space", true);
  const std::string scheme = Text(part, "prepend_scheme", old_flag ? "always" : "never");
  AddToBoth([&](Normalizer& normalizer) { normalizer.AddReplace(" ", space); });
  if (scheme == "always") pipeline_.normalizer.AddPrepend(space, space);
  if (scheme == "always" || scheme == "first") pipeline_.first_normalizer.AddPrepend(space, space);
  if (Flag(part, "split", true)) {
    pipeline_.stages.push_back(
        {.pattern = QuotePattern(space), .behavior = SplitStage::Behavior::kMergedWithNext});
  }
  return absl::OkStatus();
}

absl::Status PipelineReader::ReadSplit(const json& part) {
  const json* pattern = Member(part, "pattern");
  if (pattern == nullptr) return absl::InvalidArgumentError("a Split has no pattern");
  const std::string regex = Text(*pattern, "Regex");
  const std::string text = Text(*pattern, "String");
  if (regex.empty() && text.empty()) {
    return absl::InvalidArgumentError("a Split's pattern is neither Regex nor String");
  }
  SplitStage stage{.pattern = regex.empty() ? QuotePattern(text) : ToPcre2(regex)};
  const std::string behavior = Text(part, "behavior");
  const bool invert = Flag(part, "invert", false);
  if (behavior == "Removed") {
    stage.behavior = invert ? SplitStage::Behavior::kOnlyMatches : SplitStage::Behavior::kOnlyGaps;
  } else if (behavior == "MergedWithPrevious" && !invert) {
    stage.behavior = SplitStage::Behavior::kMergedWithPrevious;
  } else if (behavior == "MergedWithNext" && !invert) {
    stage.behavior = SplitStage::Behavior::kMergedWithNext;
  } else if (behavior != "Isolated") {
    return absl::UnimplementedError(absl::StrCat("a Split with behavior ", Quoted(behavior),
                                                 invert ? " inverted" : "", " is not known"));
  }
  pipeline_.stages.push_back(std::move(stage));
  return absl::OkStatus();
}

absl::Status PipelineReader::ReadDecoder(const json& part) {
  const std::string type = Type(part);
  if (type == "ByteLevel") {
    pipeline_.byte_level = true;
  } else if (type == "Strip") {
    const json* start = Member(part, "start");
    pipeline_.strips_leading_space = start != nullptr && start->is_number() && *start > 0;
  } else if (type == "Metaspace") {
    pipeline_.strips_leading_space =
        Text(part, "prepend_scheme", Flag(part, "add_prefix_space", true) ? "always" : "never") !=
        "never";
  } else if (type != "Replace" && type != "ByteFallback" && type != "Fuse") {
    return Unknown("a decoder", part);
  }
  return absl::OkStatus();
}

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
  absl::Status ReadIds(const json& model);
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
  if (added == nullptr || !added->is_array()) return absl::OkStatus();
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

/// "single": [{"SpecialToken": {"id": "<s>"}}, {"Sequence": …}, …].
absl::Status VocabularyReader::ReadTemplate(const json& processor) {
  const std::string type = Type(processor);
  if (type == "ByteLevel") return absl::OkStatus();
  if (type != "TemplateProcessing") return Unknown("a post-processor", processor);
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
    const int32_t id = special == nullptr ? -1 : IdOf(Text(*special, "id"));
    bool& flag = before ? vocabulary_.add_bos.emplace(vocabulary_.add_bos.value_or(false))
                        : vocabulary_.add_eos;
    if (id < 0 || flag) {
      return absl::UnimplementedError(
          "TemplateProcessing: expected at most one token before the text and one after it");
    }
    flag = true;
    (before ? vocabulary_.bos_id : vocabulary_.eos_id) = id;
  }
  return absl::OkStatus();
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
  absl::Status status = ForEach(Member(document_, "post_processor"), "processors",
                                [&](const json& part) { return ReadTemplate(part); });
  if (!status.ok()) return status;
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
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<Tokenizer>> Build(const json& document,
                                                 const TokenizerSettings& settings) {
  const json* model = Member(document, "model");
  if (absl::Status status = CheckModel(model); !status.ok()) return status;
  auto pipeline = PipelineReader().Read(document);
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
