#include "engine/weights/json_config.h"

#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <type_traits>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/text.h"
#include "engine/weights/byte_cursor.h"
#include "engine/weights/mapped_file.h"

namespace nsa::engine {
namespace {

using nlohmann::json;

constexpr size_t kMaxBytes = size_t{64} << 20;
constexpr int kMaxDepth = 256;

/// Whether brackets outside of strings nest too deep: asked before parsing, as a parser's memory
/// grows with depth.
bool NestsTooDeep(std::string_view text) {
  int depth = 0;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string && c == '\\') {
      ++i;
    } else if (c == '"') {
      in_string = !in_string;
    } else if (!in_string && (c == '[' || c == '{')) {
      if (++depth > kMaxDepth) return true;
    } else if (!in_string && (c == ']' || c == '}')) {
      --depth;
    }
  }
  return false;
}

/// `value` as T; false where its type or range does not allow it.
bool Convert(const json& value, int64_t& result) {
  if (value.is_number_unsigned()) {
    result = static_cast<int64_t>(value.get<uint64_t>());
    return value.get<uint64_t>() <= static_cast<uint64_t>(std::numeric_limits<int64_t>::max());
  }
  if (value.is_number_integer()) {
    result = value.get<int64_t>();
    return true;
  }
  if (!value.is_number_float()) return false;
  const double number = value.get<double>();
  if (!(std::abs(number) < 0x1p53) || number != std::floor(number)) return false;
  result = static_cast<int64_t>(number);
  return true;
}

bool Convert(const json& value, double& result) {
  if (!value.is_number()) return false;
  result = value.get<double>();
  return true;
}

bool Convert(const json& value, bool& result) {
  if (!value.is_boolean()) return false;
  result = value.get<bool>();
  return true;
}

bool Convert(const json& value, std::string_view& result) {
  if (!value.is_string()) return false;
  result = value.get_ref<const std::string&>();
  return true;
}

template <typename T>
constexpr const char* kName = std::is_same_v<T, int64_t>  ? "an integer"
                              : std::is_same_v<T, double> ? "a number"
                              : std::is_same_v<T, bool>   ? "true or false"
                                                          : "a string";

std::string Shown(const json& value) {
  return Quoted(value.dump(-1, ' ', false, json::error_handler_t::replace));
}

absl::Status Missing(const JsonConfig& config, std::string_view key) {
  return absl::NotFoundError(absl::StrCat(config.path(), ": field '", View(key), "' is missing"));
}

absl::Status WrongType(const JsonConfig& config, std::string_view key, const json& value,
                       std::string_view expected) {
  return absl::InvalidArgumentError(absl::StrCat(config.path(), ": field '", View(key), "' is ",
                                                 Shown(value), ", expected ", View(expected)));
}

template <typename T>
absl::StatusOr<T> Get(const JsonConfig& config, std::string_view key, const json* value) {
  if (value == nullptr) return Missing(config, key);
  T result{};
  if (!Convert(*value, result)) return WrongType(config, key, *value, kName<T>);
  return result;
}

template <typename T>
absl::StatusOr<std::vector<T>> GetVector(const JsonConfig& config, std::string_view key,
                                         const json* value) {
  if (value == nullptr) return Missing(config, key);
  const auto expected = [] { return absl::StrCat("an array, each element ", kName<T>); };
  if (!value->is_array()) return WrongType(config, key, *value, expected());
  std::vector<T> results;
  results.reserve(value->size());
  for (const json& element : *value) {
    T result{};
    if (!Convert(element, result)) return WrongType(config, key, *value, expected());
    results.push_back(result);
  }
  return results;
}

}  // namespace

JsonConfig::JsonConfig(std::string path, std::unique_ptr<nlohmann::json> document)
    : path_(std::move(path)), document_(std::move(document)) {}
JsonConfig::~JsonConfig() = default;
JsonConfig::JsonConfig(JsonConfig&&) noexcept = default;
JsonConfig& JsonConfig::operator=(JsonConfig&&) noexcept = default;

absl::StatusOr<JsonConfig> JsonConfig::Read(const std::string& path) {
  const auto file = MappedFile::Open(path);
  if (!file.ok()) return file.status();
  const auto bytes = (*file)->bytes();
  if (bytes.size() > kMaxBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": ", bytes.size(), " bytes, expected at most ", kMaxBytes));
  }
  return Parse({reinterpret_cast<const char*>(bytes.data()), bytes.size()}, path);
}

absl::StatusOr<JsonConfig> JsonConfig::Parse(std::string_view text, std::string path) {
  if (NestsTooDeep(text)) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": nests deeper than ", kMaxDepth, " levels"));
  }
  auto document = std::make_unique<json>();
  try {
    *document = json::parse(text.begin(), text.end());
  } catch (const json::parse_error& error) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": no JSON at byte ", error.byte));
  } catch (const json::exception&) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": no JSON that this server reads (a number out of range?)"));
  }
  if (!document->is_object()) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": expected a JSON object at the top"));
  }
  return JsonConfig(std::move(path), std::move(document));
}

absl::StatusOr<JsonConfig> JsonConfig::Section(std::string_view key,
                                               std::string_view defaults) const {
  const json* section = Find(key);
  if (section == nullptr) return Missing(*this, key);
  if (!section->is_object()) return WrongType(*this, key, *section, "an object");
  auto fields = std::make_unique<json>(json::parse(defaults.begin(), defaults.end()));
  fields->update(*section);
  return JsonConfig(absl::StrCat(path_, ": ", View(key)), std::move(fields));
}

const json* JsonConfig::Find(std::string_view key) const {
  const json* value = document_.get();
  while (true) {
    const size_t dot = key.find('.');
    if (!value->is_object()) return nullptr;
    const auto it = value->find(std::string(key.substr(0, dot)));
    if (it == value->end() || it->is_null()) return nullptr;
    value = &*it;
    if (dot == std::string_view::npos) return value;
    key.remove_prefix(dot + 1);
  }
}

bool JsonConfig::IsObject(std::string_view key) const {
  const json* value = Find(key);
  return value != nullptr && value->is_object();
}
bool JsonConfig::IsArray(std::string_view key) const {
  const json* value = Find(key);
  return value != nullptr && value->is_array();
}
absl::StatusOr<int64_t> JsonConfig::GetInt(std::string_view key) const {
  return Get<int64_t>(*this, key, Find(key));
}
absl::StatusOr<double> JsonConfig::GetFloat(std::string_view key) const {
  return Get<double>(*this, key, Find(key));
}
absl::StatusOr<bool> JsonConfig::GetBool(std::string_view key) const {
  return Get<bool>(*this, key, Find(key));
}
absl::StatusOr<std::string_view> JsonConfig::GetString(std::string_view key) const {
  return Get<std::string_view>(*this, key, Find(key));
}
absl::StatusOr<ConfigSource::Strings> JsonConfig::GetStrings(std::string_view key) const {
  return GetVector<std::string_view>(*this, key, Find(key));
}
absl::StatusOr<std::vector<int64_t>> JsonConfig::GetInts(std::string_view key) const {
  return GetVector<int64_t>(*this, key, Find(key));
}
absl::StatusOr<std::vector<double>> JsonConfig::GetFloats(std::string_view key) const {
  return GetVector<double>(*this, key, Find(key));
}

}  // namespace nsa::engine
