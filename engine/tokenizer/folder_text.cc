#include "engine/tokenizer/folder_text.h"

#include <initializer_list>
#include <nlohmann/json.hpp>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/tokenizer/sentencepiece.h"
#include "engine/tokenizer/tokenizer_json.h"
#include "engine/weights/byte_cursor.h"
#include "engine/weights/mapped_file.h"

namespace nsa::engine {
namespace {

using MaybeJson = std::optional<JsonConfig>;

/// A token by its text, or by an object with its "content"; empty: none.
absl::StatusOr<std::string> TokenText(const MaybeJson& config, const std::string& field) {
  if (!config.has_value() || !config->Has(field)) return "";
  const auto text = config->GetString(config->IsObject(field) ? field + ".content" : field);
  if (!text.ok()) return text.status();
  return std::string(*text);
}

/// The first of the files that names the token.
absl::Status ReadToken(std::initializer_list<const MaybeJson*> files, const std::string& field,
                       std::string& token) {
  for (const MaybeJson* file : files) {
    auto text = TokenText(*file, field);
    if (!text.ok()) return text.status();
    token = *std::move(text);
    if (!token.empty()) return absl::OkStatus();
  }
  return absl::OkStatus();
}

absl::Status ReadFlag(const MaybeJson& config, const std::string& field,
                      std::optional<bool>& target) {
  if (!config.has_value() || !config->Has(field)) return absl::OkStatus();
  const auto flag = config->GetBool(field);
  if (!flag.ok()) return flag.status();
  target = *flag;
  return absl::OkStatus();
}

/// "eos_token_id": a number, or an array of numbers.
absl::Status AppendEndIds(const JsonConfig& config, std::vector<int64_t>& ids,
                          std::string_view key = "eos_token_id") {
  if (!config.Has(key)) return absl::OkStatus();
  if (config.IsArray(key)) {
    const auto several = config.GetInts(key);
    if (!several.ok()) return several.status();
    ids.insert(ids.end(), several->begin(), several->end());
    return absl::OkStatus();
  }
  const auto one = config.GetInt(key);
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
absl::StatusOr<std::optional<std::string>> TemplateOf(const JsonConfig& config) {
  constexpr const char* kKey = "chat_template";
  if (!config.Has(kKey)) return std::nullopt;
  if (!config.IsArray(kKey)) {
    const auto text = config.GetString(kKey);
    if (!text.ok()) return text.status();
    return std::string(*text);
  }
  for (const nlohmann::json& named : config.document()[kKey]) {
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
  for (const MaybeJson* file : {&*separate, &tokenizer_config}) {
    if (text.chat_template.has_value() || !file->has_value()) continue;
    auto found = TemplateOf(**file);
    if (!found.ok()) return found.status();
    text.chat_template = *std::move(found);
  }
  return absl::OkStatus();
}

/// Tokens that were added beside a tokenizer.model, {"<|im_start|>": 32000, …}: its library cannot
/// hold them, and as plain text they would mean nothing to the model. Padding never stands in a
/// text.
absl::Status CheckNoneAdded(const ModelFolder& folder, const MaybeJson& tokenizer_config,
                            int32_t num_pieces) {
  const auto added = folder.ReadJson("added_tokens.json");
  if (!added.ok()) return added.status();
  if (!added->has_value()) return absl::OkStatus();
  const auto padding = TokenText(tokenizer_config, "pad_token");
  if (!padding.ok()) return padding.status();
  for (const auto& [token, id] : (*added)->document().items()) {
    if (id.is_number_unsigned() && id.get<uint64_t>() < static_cast<uint64_t>(num_pieces)) continue;
    if (token == *padding) continue;
    return absl::UnimplementedError(
        absl::StrCat((*added)->path(), ": ", Quoted(token),
                     " is added to tokenizer.model; such a folder needs a tokenizer.json"));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<Tokenizer>> LoadModelProto(const std::string& path,
                                                          const TokenizerSettings& settings) {
  const auto bytes = ReadText(path);
  if (!bytes.ok()) return bytes.status();
  SentencePiece::ProtoOptions options;
  options.stop_ids = settings.stop_ids;
  options.add_bos = settings.add_bos;
  options.add_eos = settings.add_eos;
  auto tokenizer = SentencePiece::FromModelProto(*bytes, options);
  if (!tokenizer.ok()) {
    return absl::Status(tokenizer.status().code(),
                        absl::StrCat(path, ": ", tokenizer.status().message()));
  }
  return *std::move(tokenizer);
}

/// What the files beside the tokenizer say of it.
absl::StatusOr<TokenizerSettings> ReadSettings(const ModelFolder& folder,
                                               const MaybeJson& tokenizer_config) {
  TokenizerSettings settings;
  // Folders of old versions name the tokens in a file of their own.
  const auto map = folder.ReadJson("special_tokens_map.json");
  if (!map.ok()) return map.status();
  for (const auto& [field, token] :
       {std::pair("bos_token", &settings.bos_token), std::pair("eos_token", &settings.eos_token)}) {
    if (auto s = ReadToken({&tokenizer_config, &*map}, field, *token); !s.ok()) return s;
  }
  if (auto s = ReadFlag(tokenizer_config, "add_bos_token", settings.add_bos); !s.ok()) return s;
  if (auto s = ReadFlag(tokenizer_config, "add_eos_token", settings.add_eos); !s.ok()) return s;
  std::optional<bool> splits;
  if (auto s = ReadFlag(tokenizer_config, "split_special_tokens", splits); !s.ok()) return s;
  if (splits.value_or(false)) {
    return absl::UnimplementedError(absl::StrCat(
        tokenizer_config->path(), ": split_special_tokens is set; no published model is so"));
  }
  const JsonConfig& config = folder.config();
  if (auto s = AppendEndIds(config, settings.stop_ids); !s.ok()) return s;
  if (auto s = AppendEndIds(config, settings.stop_ids, "text_config.eos_token_id"); !s.ok()) {
    return s;
  }
  const auto generation = folder.ReadJson("generation_config.json");
  if (!generation.ok()) return generation.status();
  if (!generation->has_value()) return settings;
  if (auto s = AppendEndIds(**generation, settings.stop_ids); !s.ok()) return s;
  return settings;
}

}  // namespace

absl::StatusOr<FolderText> LoadFolderText(const ModelFolder& folder, int32_t num_rows) {
  FolderText text;
  const auto tokenizer_config = folder.ReadJson("tokenizer_config.json");
  if (!tokenizer_config.ok()) return tokenizer_config.status();
  auto settings = ReadSettings(folder, *tokenizer_config);
  if (!settings.ok()) return settings.status();
  settings->max_tokens = static_cast<size_t>(num_rows);
  text.bos_token = settings->bos_token;
  text.eos_token = settings->eos_token;
  if (absl::Status s = ReadChatTemplate(folder, *tokenizer_config, text); !s.ok()) return s;
  const auto json = folder.ReadJson("tokenizer.json");
  if (!json.ok()) return json.status();
  absl::StatusOr<std::unique_ptr<Tokenizer>> tokenizer;
  if (json->has_value()) {
    tokenizer = LoadTokenizerJson(**json, *settings);
  } else if (const auto path = folder.FindFile("tokenizer.model"); path.has_value()) {
    tokenizer = LoadModelProto(*path, *settings);
    if (!tokenizer.ok()) return tokenizer.status();
    const int32_t num_pieces = (*tokenizer)->vocabulary_size();
    if (auto s = CheckNoneAdded(folder, *tokenizer_config, num_pieces); !s.ok()) return s;
  } else {
    return absl::NotFoundError(
        absl::StrCat(folder.path(), ": neither tokenizer.json nor tokenizer.model"));
  }
  if (!tokenizer.ok()) return tokenizer.status();
  text.tokenizer = *std::move(tokenizer);
  return text;
}

}  // namespace nsa::engine
