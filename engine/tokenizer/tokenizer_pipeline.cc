#include "engine/tokenizer/tokenizer_pipeline.h"

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/text.h"
#include "engine/tokenizer/oniguruma.h"
#include "engine/tokenizer/piece_text.h"
#include "engine/tokenizer/tokenizer_json_fields.h"
#include "engine/weights/byte_cursor.h"

namespace nsa::engine {
namespace {

using nlohmann::json;

// Published files have up to four of either, and grow a text at most 33 times (compatible forms of
// Arabic ligatures, then a visible space for each).
constexpr size_t kMaxSteps = 64;
constexpr double kMaxGrowth = 128;
constexpr size_t kMaxPatternBytes = size_t{1} << 14;
// GPT-2's split, which the component "ByteLevel" does by default.
constexpr std::string_view kByteLevelPattern =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

class PipelineReader {
 public:
  absl::StatusOr<Pipeline> Read(const json& document) {
    absl::Status status = ForEachComponent(Member(document, "normalizer"), "normalizers",
                                           [&](const json& part) { return ReadNormalizer(part); });
    if (!status.ok()) return status;
    status = ForEachComponent(Member(document, "pre_tokenizer"), "pretokenizers",
                              [&](const json& part) { return ReadPreTokenizer(part); });
    if (!status.ok()) return status;
    status = ForEachComponent(Member(document, "decoder"), "decoders",
                              [&](const json& part) { return ReadDecoder(part); });
    if (!status.ok()) return status;
    if (absl::Status s = CheckCost(); !s.ok()) return s;
    return std::move(pipeline_);
  }

 private:
  template <typename Add>
  void AddToBoth(const Add& add) {
    add(pipeline_.normalizer);
    add(pipeline_.first_normalizer);
  }

  absl::Status CheckCost() const;
  absl::Status AddPattern(std::string_view regex, SplitStage stage);
  absl::Status ReadNormalizer(const json& part);
  absl::Status ReadPreTokenizer(const json& part);
  absl::Status ReadMetaspace(const json& part);
  absl::Status ReadSplit(const json& part);
  absl::Status ReadDecoder(const json& part);

  Pipeline pipeline_;
};

/// A file may not make the work on a text, or the text itself, grow without bound.
absl::Status PipelineReader::CheckCost() const {
  for (const Normalizer* normalizer : {&pipeline_.normalizer, &pipeline_.first_normalizer}) {
    if (normalizer->num_steps() > kMaxSteps || normalizer->MaxGrowth() > kMaxGrowth) {
      return absl::InvalidArgumentError(
          absl::StrCat("normalizer: ", normalizer->num_steps(), " steps that make a text up to ",
                       normalizer->MaxGrowth(), " times as long, expected at most ", kMaxSteps,
                       " and ", kMaxGrowth));
    }
  }
  if (pipeline_.stages.size() <= kMaxSteps) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("pre_tokenizer: ", pipeline_.stages.size(),
                                                 " splits, expected at most ", kMaxSteps));
}

absl::Status PipelineReader::AddPattern(std::string_view regex, SplitStage stage) {
  auto pattern = ToPcre2(regex);
  if (!pattern.ok()) return pattern.status();
  stage.pattern = *std::move(pattern);
  pipeline_.stages.push_back(std::move(stage));
  return absl::OkStatus();
}

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
  return UnknownComponent("a normalizer", part);
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
    return Flag(part, "use_regex", true) ? AddPattern(kByteLevelPattern, {}) : absl::OkStatus();
  }
  if (type == "Digits") {
    const bool one = Flag(part, "individual_digits", false);
    pipeline_.stages.push_back({.pattern = one ? "\\p{N}" : "\\p{N}+"});
    return absl::OkStatus();
  }
  if (type == "Split") return ReadSplit(part);
  if (type == "Metaspace") return ReadMetaspace(part);
  return UnknownComponent("a pre-tokenizer", part);
}

absl::Status PipelineReader::ReadMetaspace(const json& part) {
  const std::string space = Text(part, "replacement", kVisibleSpace);
  if (space != kVisibleSpace) {
    return absl::UnimplementedError(
        absl::StrCat("Metaspace with replacement ", Quoted(space), " is not known"));
  }
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
  if (regex.size() + text.size() > kMaxPatternBytes) {
    return absl::InvalidArgumentError(absl::StrCat("a Split's pattern has ",
                                                   regex.size() + text.size(),
                                                   " bytes, expected at most ", kMaxPatternBytes));
  }
  SplitStage stage{.pattern = QuotePattern(text)};
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
  if (!regex.empty()) return AddPattern(regex, std::move(stage));
  pipeline_.stages.push_back(std::move(stage));
  return absl::OkStatus();
}

absl::Status PipelineReader::ReadDecoder(const json& part) {
  const std::string type = Type(part);
  if (type == "ByteLevel") {
    pipeline_.byte_level = true;
  } else if (type == "Strip") {
    const int64_t start = Count(part, "start", 0);
    if (!pipeline_.fuses || Text(part, "content") != " " || start > 1 ||
        Count(part, "stop", 0) != 0) {
      return absl::UnimplementedError(
          "a decoder Strip other than of one leading space is not known");
    }
    pipeline_.strips_leading_space = start == 1;
  } else if (type == "Replace") {
    const json* pattern = Member(part, "pattern");
    if (pattern == nullptr || Text(*pattern, "String") != kVisibleSpace ||
        Text(part, "content") != " ") {
      return absl::UnimplementedError("a decoder Replace other than of U+2581 is not known");
    }
  } else if (type == "Fuse") {
    pipeline_.fuses = true;
  } else if (type == "Metaspace") {
    pipeline_.strips_leading_space =
        Text(part, "prepend_scheme", Flag(part, "add_prefix_space", true) ? "always" : "never") !=
        "never";
  } else if (type != "ByteFallback") {
    return UnknownComponent("a decoder", part);
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Pipeline> ReadPipeline(const json& document) {
  return PipelineReader().Read(document);
}

}  // namespace nsa::engine
