#include "engine/tokenizer/folder_text.h"

#include <nlohmann/json.hpp>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/tokenizer/sentencepiece.h"
#include "engine/tokenizer/tokenizer_json.h"
#include "engine/weights/mapped_file.h"

namespace nsa::engine {
namespace {

using MaybeJson = std::optional<JsonConfig>;

/// A token by its text, or by an object with its "content".
std::string TokenText(const MaybeJson& config, std::string_view key) {
  if (!config.has_value()) return "";
  const std::string field(key);
  for (const std::string& name : {field, field + ".content"}) {
    if (const auto text = config->GetString(name); text.ok()) return std::string(*text);
  }
  return "";
}

/// "eos_token_id": a number, or an array of numbers.
absl::Status AppendEndIds(const JsonConfig& config, std::vector<int64_t>& ids) {
  constexpr std::string_view kKey = "eos_token_id";
  if (!config.Has(kKey)) return absl::OkStatus();
  if (config.IsArray(kKey)) {
    const auto several = config.GetInts(kKey);
    if (!several.ok()) return several.status();
    ids.insert(ids.end(), several->begin(), several->end());
    return absl::OkStatus();
  }
  const auto one = config.GetInt(kKey);
  if (!one.ok()) return one.status();
  ids.push_back(*one);
  return absl::OkStatus();
}

absl::StatusOr<std::string> ReadText(const std::string& path) {
  const auto file = MappedFile::Open(path);
  if (!file.ok()) return file.status();
  const auto bytes = (*file)->bytes();
  return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

/// "chat_template": a text, or an array of named ones, of which "default" counts.
std::optional<std::string> TemplateOf(const JsonConfig& config) {
  const auto it = config.document().find("chat_template");
  if (it == config.document().end()) return std::nullopt;
  if (it->is_string()) return it->get<std::string>();
  if (!it->is_array()) return std::nullopt;
  for (const nlohmann::json& named : *it) {
    const bool usable = named.is_object() && named.contains("name") && named.contains("template") &&
                        named["name"] == "default" && named["template"].is_string();
    if (usable) return named["template"].get<std::string>();
  }
  return std::nullopt;
}

absl::Status ReadChatTemplate(const ModelFolder& folder, const MaybeJson& tokenizer_config,
                              FolderText& text) {
  // Newer folders keep the template in a file of its own, which then counts.
  if (const auto path = folder.FindFile("chat_template.jinja"); path.has_value()) {
    auto source = ReadText(*path);
    if (!source.ok()) return source.status();
    text.chat_template = *std::move(source);
    return absl::OkStatus();
  }
  const auto separate = folder.ReadJson("chat_template.json");
  if (!separate.ok()) return separate.status();
  if (separate->has_value()) text.chat_template = TemplateOf(**separate);
  if (!text.chat_template.has_value() && tokenizer_config.has_value()) {
    text.chat_template = TemplateOf(*tokenizer_config);
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<Tokenizer>> LoadModelProto(const std::string& path,
                                                          const MaybeJson& tokenizer_config,
                                                          const TokenizerSettings& settings) {
  const auto bytes = ReadText(path);
  if (!bytes.ok()) return bytes.status();
  SentencePiece::ProtoOptions options;
  options.stop_ids = settings.stop_ids;
  if (tokenizer_config.has_value()) {
    for (const auto& [key, target] : {std::pair("add_bos_token", &options.add_bos),
                                      std::pair("add_eos_token", &options.add_eos)}) {
      if (!tokenizer_config->Has(key)) continue;
      const auto flag = tokenizer_config->GetBool(key);
      if (!flag.ok()) return flag.status();
      *target = *flag;
    }
  }
  auto tokenizer = SentencePiece::FromModelProto(*bytes, options);
  if (!tokenizer.ok()) {
    return absl::Status(tokenizer.status().code(),
                        absl::StrCat(path, ": ", tokenizer.status().message()));
  }
  return *std::move(tokenizer);
}

}  // namespace

absl::StatusOr<FolderText> LoadFolderText(const ModelFolder& folder) {
  FolderText text;
  const auto tokenizer_config = folder.ReadJson("tokenizer_config.json");
  if (!tokenizer_config.ok()) return tokenizer_config.status();
  const auto generation = folder.ReadJson("generation_config.json");
  if (!generation.ok()) return generation.status();
  TokenizerSettings settings{.bos_token = TokenText(*tokenizer_config, "bos_token"),
                             .eos_token = TokenText(*tokenizer_config, "eos_token"),
                             .stop_ids = {}};
  if (absl::Status s = AppendEndIds(folder.config(), settings.stop_ids); !s.ok()) return s;
  if (generation->has_value()) {
    if (absl::Status s = AppendEndIds(**generation, settings.stop_ids); !s.ok()) return s;
  }
  text.bos_token = settings.bos_token;
  text.eos_token = settings.eos_token;
  if (absl::Status s = ReadChatTemplate(folder, *tokenizer_config, text); !s.ok()) return s;
  const auto json = folder.ReadJson("tokenizer.json");
  if (!json.ok()) return json.status();
  absl::StatusOr<std::unique_ptr<Tokenizer>> tokenizer;
  if (json->has_value()) {
    tokenizer = LoadTokenizerJson(**json, settings);
  } else if (const auto path = folder.FindFile("tokenizer.model"); path.has_value()) {
    tokenizer = LoadModelProto(*path, *tokenizer_config, settings);
  } else {
    return absl::NotFoundError(
        absl::StrCat(folder.path(), ": neither tokenizer.json nor tokenizer.model"));
  }
  if (!tokenizer.ok()) return tokenizer.status();
  text.tokenizer = *std::move(tokenizer);
  return text;
}

}  // namespace nsa::engine
