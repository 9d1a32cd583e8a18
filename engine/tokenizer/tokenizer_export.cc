#include "engine/tokenizer/tokenizer_export.h"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <string_view>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "engine/text.h"
#include "engine/tokenizer/piece_text.h"
#include "engine/tokenizer/pre_tokenizer_patterns.h"
#include "engine/tokenizer/sentencepiece.h"
#include "engine/tokenizer/utf8.h"
#include "engine/tokenizer/vocabulary.h"
#include "engine/weights/checkpoint.h"
#include "engine/weights/mapped_file.h"

namespace nsa::engine {
namespace {

using nlohmann::json;

// What of a folder other programs read.
constexpr std::array<const char*, 9> kFolderFiles = {
    "tokenizer.json",      "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json",   "config.json",           "generation_config.json",
    "chat_template.jinja", "chat_template.json",    "preprocessor_config.json"};

std::string Dump(const json& document) {
  return document.dump(-1, ' ', false, json::error_handler_t::replace);
}

absl::StatusOr<std::vector<TokenizerFile>> FolderFiles(const ModelFolder& folder) {
  std::vector<TokenizerFile> files;
  for (const char* name : kFolderFiles) {
    const auto path = folder.FindFile(name);
    if (!path.has_value()) continue;
    const auto file = MappedFile::Open(*path);
    if (!file.ok()) return file.status();
    const auto bytes = (*file)->bytes();
    files.push_back({name, {reinterpret_cast<const char*>(bytes.data()), bytes.size()}});
  }
  return files;
}

/// What Encode puts around a text.
struct Around {
  bool bos = false;
  bool eos = false;
};

Around FindAround(const Tokenizer& tokenizer) {
  const auto plain = tokenizer.Encode("a", {.add_special_tokens = false});
  const auto whole = tokenizer.Encode("a", {.add_special_tokens = true});
  const size_t num_added = whole.size() - plain.size();
  Around around;
  around.bos = num_added == 2 || (num_added == 1 && !plain.empty() &&
                                  std::equal(plain.begin(), plain.end(), whole.begin() + 1));
  around.eos = num_added == (around.bos ? 2U : 1U);
  return around;
}

bool IsAdded(TokenType type) {
  return type == TokenType::kControl || type == TokenType::kUnknown ||
         type == TokenType::kUserDefined;
}

json AddedTokens(const Vocabulary& vocabulary) {
  json added = json::array();
  for (size_t id = 0; id < vocabulary.tokens.size(); ++id) {
    if (!IsAdded(vocabulary.types[id])) continue;
    const auto strip =
        std::ranges::find(vocabulary.strips, static_cast<int32_t>(id), &TokenStrip::id);
    const bool strips = strip != vocabulary.strips.end();
    added.push_back({{"id", id},
                     {"content", vocabulary.tokens[id]},
                     {"single_word", false},
                     {"lstrip", strips && strip->left},
                     {"rstrip", strips && strip->right},
                     {"normalized", false},
                     {"special", vocabulary.types[id] != TokenType::kUserDefined}});
  }
  return added;
}

json VocabularyOf(const Vocabulary& vocabulary) {
  json tokens = json::object();
  for (size_t id = 0; id < vocabulary.tokens.size(); ++id) tokens[vocabulary.tokens[id]] = id;
  return tokens;
}

json PostProcessor(const Vocabulary& vocabulary, Around around) {
  if (!around.bos && !around.eos) return nullptr;
  json single = json::array();
  json pair = json::array();
  json special = json::object();
  const auto add = [&](int32_t id) {
    const std::string& token = vocabulary.tokens[static_cast<size_t>(id)];
    single.push_back({{"SpecialToken", {{"id", token}, {"type_id", 0}}}});
    pair.push_back(single.back());
    special[token] = {{"id", token}, {"ids", {id}}, {"tokens", {token}}};
  };
  if (around.bos) add(vocabulary.bos_id);
  single.push_back({{"Sequence", {{"id", "A"}, {"type_id", 0}}}});
  pair.push_back(single.back());
  pair.push_back({{"Sequence", {{"id", "B"}, {"type_id", 0}}}});
  if (around.eos) add(vocabulary.eos_id);
  return {{"type", "TemplateProcessing"},
          {"single", std::move(single)},
          {"pair", std::move(pair)},
          {"special_tokens", std::move(special)}};
}

const PrePattern* FindPattern(std::string_view name) {
  const std::string wanted = absl::StrCat(" ", name.empty() ? "default" : View(name), " ");
  for (const PrePattern& pattern : kPrePatterns) {
    if (absl::StrCat(" ", View(pattern.names), " ").find(wanted) != std::string::npos) {
      return &pattern;
    }
  }
  return nullptr;
}

/// The table's pattern with \\s for White_Space, as checkpoints have it and fast paths know it.
std::string WithShortSpaces(std::string_view pattern) {
  return absl::StrReplaceAll(View(pattern), {{R"([^\t-\r\x{85}\p{Z}])", R"(\S)"},
                                             {R"([\t-\r\x{85}\p{Z}])", R"(\s)"},
                                             {R"(\t-\r\x{85}\p{Z})", R"(\s)"}});
}

json ByteLevel(bool trims) {
  return {{"type", "ByteLevel"},
          {"add_prefix_space", false},
          {"trim_offsets", trims},
          {"use_regex", false}};
}

json BpeModel(const Vocabulary& vocabulary, json merges) {
  return {{"type", "BPE"},
          {"dropout", nullptr},
          {"unk_token", nullptr},
          {"continuing_subword_prefix", nullptr},
          {"end_of_word_suffix", nullptr},
          {"fuse_unk", false},
          {"byte_fallback", false},
          {"ignore_merges", false},
          {"vocab", VocabularyOf(vocabulary)},
          {"merges", std::move(merges)}};
}

/// Byte-level BPE: GGUF has it as tokenizer.json does, but for the patterns, of which it has a
/// name.
absl::Status FillByteBpe(const Vocabulary& vocabulary, json& document) {
  const PrePattern* pattern = FindPattern(vocabulary.pre);
  if (pattern == nullptr) {
    return absl::InternalError(absl::StrCat("no split pattern ", vocabulary.pre));
  }
  json stages = json::array();
  for (const std::string_view stage : pattern->stages) {
    if (stage.empty()) break;
    stages.push_back({{"type", "Split"},
                      {"pattern", {{"Regex", WithShortSpaces(stage)}}},
                      {"behavior", "Isolated"},
                      {"invert", false}});
  }
  stages.push_back(ByteLevel(false));
  json merges = json::array();
  for (const std::string& merge : vocabulary.merges) {
    const size_t space = merge.find(' ');
    merges.push_back({merge.substr(0, space), merge.substr(space + 1)});
  }
  document["pre_tokenizer"] = {{"type", "Sequence"}, {"pretokenizers", std::move(stages)}};
  document["model"] = BpeModel(vocabulary, std::move(merges));
  document["model"]["ignore_merges"] = pattern->ignores_merges;
  document["decoder"] = ByteLevel(true);
  return absl::OkStatus();
}

/// SentencePiece merges whichever neighbours make the piece of the highest score; a list of merges
/// in the order of scores says the same. (So PyPI `transformers` converts such models.)
json MergesByScore(const Vocabulary& vocabulary) {
  struct Merge {
    float score;
    std::string_view left, right;
  };
  const auto takes_part = [&](size_t id) {
    return vocabulary.types[id] == TokenType::kNormal ||
           vocabulary.types[id] == TokenType::kUserDefined;
  };
  absl::flat_hash_map<std::string_view, size_t> ids;
  for (size_t id = 0; id < vocabulary.tokens.size(); ++id) {
    if (takes_part(id)) ids.emplace(vocabulary.tokens[id], id);
  }
  std::vector<Merge> merges;
  for (size_t id = 0; id < vocabulary.tokens.size(); ++id) {
    if (!takes_part(id)) continue;
    const std::string_view piece = vocabulary.tokens[id];
    for (size_t cut = ReadUtf8Head(piece).num_bytes; cut < piece.size();
         cut += ReadUtf8Head(piece.substr(cut)).num_bytes) {
      const std::string_view left = piece.substr(0, cut), right = piece.substr(cut);
      if (!ids.contains(left) || !ids.contains(right)) continue;
      merges.push_back({vocabulary.scores[id], left, right});
    }
  }
  std::ranges::stable_sort(merges, [](const Merge& a, const Merge& b) {
    return a.score != b.score ? a.score > b.score : a.left.size() > b.left.size();
  });
  json list = json::array();
  for (const Merge& merge : merges) {
    list.push_back({std::string(merge.left), std::string(merge.right)});
  }
  return list;
}

void FillSentencePiece(const Vocabulary& vocabulary, bool adds_space, json& document) {
  const std::string space(kVisibleSpace);
  const json to_visible = {{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", space}};
  json normalizers = json::array();
  if (adds_space) normalizers.push_back({{"type", "Prepend"}, {"prepend", space}});
  normalizers.push_back(to_visible);
  document["normalizer"] = {{"type", "Sequence"}, {"normalizers", std::move(normalizers)}};
  document["model"] = BpeModel(vocabulary, MergesByScore(vocabulary));
  const auto unknown = std::ranges::find(vocabulary.types, TokenType::kUnknown);
  const size_t unknown_id = unknown != vocabulary.types.end()
                                ? static_cast<size_t>(unknown - vocabulary.types.begin())
                                : static_cast<size_t>(std::max(vocabulary.unknown_id, 0));
  document["model"]["unk_token"] = vocabulary.tokens[unknown_id];
  document["model"]["fuse_unk"] = true;
  document["model"]["byte_fallback"] =
      std::ranges::find(vocabulary.types, TokenType::kByte) != vocabulary.types.end();
  json decoders = json::array();
  decoders.push_back({{"type", "Replace"}, {"pattern", {{"String", space}}}, {"content", " "}});
  decoders.push_back({{"type", "ByteFallback"}});
  decoders.push_back({{"type", "Fuse"}});
  if (adds_space) {
    decoders.push_back({{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}});
  }
  document["decoder"] = {{"type", "Sequence"}, {"decoders", std::move(decoders)}};
}

json ConfigOf(const Vocabulary& vocabulary, Around around) {
  json config = {{"tokenizer_class", "PreTrainedTokenizerFast"},
                 {"clean_up_tokenization_spaces", false},
                 {"add_bos_token", around.bos},
                 {"add_eos_token", around.eos}};
  for (const auto& [field, id] :
       {std::pair("bos_token", vocabulary.bos_id), std::pair("eos_token", vocabulary.eos_id),
        std::pair("unk_token", vocabulary.unknown_id)}) {
    if (id >= 0) config[field] = vocabulary.tokens[static_cast<size_t>(id)];
  }
  return config;
}

/// What all kinds have in common.
json EmptyDocument(const Vocabulary& vocabulary, Around around) {
  return {{"version", "1.0"},
          {"truncation", nullptr},
          {"padding", nullptr},
          {"added_tokens", AddedTokens(vocabulary)},
          {"normalizer", nullptr},
          {"pre_tokenizer", nullptr},
          {"post_processor", PostProcessor(vocabulary, around)},
          {"decoder", nullptr},
          {"model", nullptr}};
}

absl::StatusOr<std::vector<TokenizerFile>> GgufFiles(const GgufFile& file,
                                                     const Tokenizer& tokenizer) {
  const auto vocabulary = ReadVocabulary(file);
  if (!vocabulary.ok()) return vocabulary.status();
  const Around around = FindAround(tokenizer);
  json document = EmptyDocument(*vocabulary, around);
  const auto model = file.GetString("tokenizer.ggml.model");
  if (!model.ok()) return model.status();
  if (*model == "gpt2") {
    if (auto s = FillByteBpe(*vocabulary, document); !s.ok()) return s;
  } else {
    FillSentencePiece(*vocabulary, tokenizer.strips_leading_space(), document);
  }
  json config = ConfigOf(*vocabulary, around);
  if (const auto source = file.GetString("tokenizer.chat_template"); source.ok()) {
    config["chat_template"] = std::string(*source);
  }
  const json generation = {{"eos_token_id", tokenizer.stop_ids()}};
  return std::vector<TokenizerFile>{{"tokenizer.json", Dump(document)},
                                    {"tokenizer_config.json", Dump(config)},
                                    {"generation_config.json", Dump(generation)}};
}

/// A model that changes text before it looks at it does so by tables that are not told here.
bool TakesTextAsItIs(const Tokenizer& tokenizer) {
  // Spaces, compatibility forms, and marks that would be composed.
  const std::string probe = "a  b \xEF\xAC\x81 \xEF\xBC\x91 e\xCC\x81 c ";
  const auto ids = tokenizer.Encode(probe, {.add_special_tokens = false});
  return tokenizer.Decode(ids, false) == probe;
}

/// Of a folder that has tokenizer.model in the place of tokenizer.json.
absl::Status AddTokenizerJson(const ModelFolder& folder, const Tokenizer& tokenizer,
                              std::vector<TokenizerFile>& files) {
  const auto* model = dynamic_cast<const SentencePiece*>(&tokenizer);
  if (model == nullptr || model->kind() != "sentencepiece/bpe" || !TakesTextAsItIs(*model)) {
    return absl::UnimplementedError(
        absl::StrCat(folder.path(), " has no tokenizer.json, which a gateway needs, and its ",
                     tokenizer.kind(), " model cannot be told as one"));
  }
  const Vocabulary vocabulary = model->ToVocabulary();
  const Around around = FindAround(*model);
  json document = EmptyDocument(vocabulary, around);
  FillSentencePiece(vocabulary, model->strips_leading_space(), document);
  files.push_back({"tokenizer.json", Dump(document)});
  if (!folder.FindFile("tokenizer_config.json").has_value()) {
    files.push_back({"tokenizer_config.json", Dump(ConfigOf(vocabulary, around))});
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::vector<TokenizerFile>> ExportTokenizer(const Checkpoint& checkpoint,
                                                           const Tokenizer& tokenizer) {
  if (checkpoint.gguf() != nullptr) return GgufFiles(*checkpoint.gguf(), tokenizer);
  const ModelFolder& folder = *checkpoint.folder();
  auto files = FolderFiles(folder);
  if (!files.ok() || folder.FindFile("tokenizer.json").has_value()) return files;
  if (auto s = AddTokenizerJson(folder, tokenizer, *files); !s.ok()) return s;
  return files;
}

}  // namespace nsa::engine
