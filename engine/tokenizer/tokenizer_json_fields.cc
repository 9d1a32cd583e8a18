#include "engine/tokenizer/tokenizer_json_fields.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "engine/text.h"
#include "engine/weights/byte_cursor.h"

namespace nsa::engine {
namespace {

using nlohmann::json;

struct FieldType {
  std::string_view name;
  bool (json::*is)() const noexcept;
  std::string_view expected;
};

constexpr std::string_view kText = "a string", kFlag = "true or false", kCount = "a number",
                           kArray = "an array";

// The same name means the same in every component.
constexpr FieldType kFields[] = {
    {"type", &json::is_string, kText},
    {"content", &json::is_string, kText},
    {"prepend", &json::is_string, kText},
    {"replacement", &json::is_string, kText},
    {"prepend_scheme", &json::is_string, kText},
    {"behavior", &json::is_string, kText},
    {"Regex", &json::is_string, kText},
    {"String", &json::is_string, kText},
    {"unk_token", &json::is_string, kText},
    {"continuing_subword_prefix", &json::is_string, kText},
    {"end_of_word_suffix", &json::is_string, kText},
    {"add_prefix_space", &json::is_boolean, kFlag},
    {"use_regex", &json::is_boolean, kFlag},
    {"individual_digits", &json::is_boolean, kFlag},
    {"invert", &json::is_boolean, kFlag},
    {"split", &json::is_boolean, kFlag},
    {"special", &json::is_boolean, kFlag},
    {"single_word", &json::is_boolean, kFlag},
    {"lstrip", &json::is_boolean, kFlag},
    {"rstrip", &json::is_boolean, kFlag},
    {"normalized", &json::is_boolean, kFlag},
    {"byte_fallback", &json::is_boolean, kFlag},
    {"fuse_unk", &json::is_boolean, kFlag},
    {"ignore_merges", &json::is_boolean, kFlag},
    {"start", &json::is_number_unsigned, kCount},
    {"stop", &json::is_number_unsigned, kCount},
    {"dropout", &json::is_number, kCount},
    {"normalizers", &json::is_array, kArray},
    {"pretokenizers", &json::is_array, kArray},
    {"decoders", &json::is_array, kArray},
    {"processors", &json::is_array, kArray},
    {"single", &json::is_array, kArray},
    {"merges", &json::is_array, kArray},
};

absl::Status CheckMembers(const std::string& path, const json& object);

/// `value` and what it holds; the depth is bounded by JsonConfig.
absl::Status CheckValue(const std::string& path, const json& value) {
  if (value.is_object()) return CheckMembers(path, value);
  if (!value.is_array()) return absl::OkStatus();
  for (size_t i = 0; i < value.size(); ++i) {
    if (!value[i].is_structured()) continue;
    if (auto s = CheckValue(absl::StrCat(path, "[", i, "]"), value[i]); !s.ok()) return s;
  }
  return absl::OkStatus();
}

absl::Status CheckMembers(const std::string& path, const json& object) {
  for (const auto& [name, value] : object.items()) {
    if (value.is_null()) continue;
    const auto* field = std::ranges::find(kFields, name, &FieldType::name);
    if (field != std::end(kFields) && !(value.*(field->is))()) {
      return absl::InvalidArgumentError(
          absl::StrCat(path, ".", View(name), " is ",
                       Quoted(value.dump(-1, ' ', false, json::error_handler_t::replace)),
                       ", expected ", View(field->expected)));
    }
    // Names in these are tokens; who reads them checks them.
    if (name == "vocab" || name == "merges" || name == "special_tokens") continue;
    if (!value.is_structured()) continue;
    const std::string below = absl::StrCat(path, ".", absl::CHexEscape(name));
    if (auto s = CheckValue(below, value); !s.ok()) return s;
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckTokenizerFields(const json& document) {
  static constexpr struct {
    const char* name;
    bool is_array;
  } kParts[] = {{"normalizer", false},     {"pre_tokenizer", false}, {"decoder", false},
                {"post_processor", false}, {"model", false},         {"added_tokens", true}};
  for (const auto& part : kParts) {
    const json* value = Member(document, part.name);
    if (value == nullptr) continue;
    if (part.is_array ? !value->is_array() : !value->is_object()) {
      return absl::InvalidArgumentError(absl::StrCat(
          part.name, " is ", Quoted(value->dump(-1, ' ', false, json::error_handler_t::replace)),
          ", expected an ", part.is_array ? "array" : "object"));
    }
    if (absl::Status s = CheckValue(part.name, *value); !s.ok()) return s;
  }
  return absl::OkStatus();
}

const json* Member(const json& object, const char* name) {
  if (!object.is_object()) return nullptr;
  const auto it = object.find(name);
  return it == object.end() || it->is_null() ? nullptr : &*it;
}

std::string Text(const json& object, const char* name, std::string_view otherwise) {
  const json* member = Member(object, name);
  return member != nullptr && member->is_string() ? member->get<std::string>()
                                                  : std::string(otherwise);
}

bool Flag(const json& object, const char* name, bool otherwise) {
  const json* member = Member(object, name);
  return member != nullptr && member->is_boolean() ? member->get<bool>() : otherwise;
}

std::string Type(const json& component) { return Text(component, "type"); }

absl::Status UnknownComponent(std::string_view what, const json& component) {
  return absl::UnimplementedError(
      absl::StrCat(View(what), " of type ", Quoted(Type(component)), " is not known"));
}

absl::Status ForEachComponent(const json* component, const char* list,
                              const std::function<absl::Status(const json&)>& visit) {
  if (component == nullptr) return absl::OkStatus();
  if (Type(*component) != "Sequence") return visit(*component);
  const json* members = Member(*component, list);
  if (members == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat("a Sequence has no array '", list, "'"));
  }
  for (const json& member : *members) {
    if (absl::Status s = ForEachComponent(&member, list, visit); !s.ok()) return s;
  }
  return absl::OkStatus();
}

int64_t Count(const json& object, const char* name, int64_t otherwise) {
  const json* member = Member(object, name);
  return member != nullptr && member->is_number_unsigned() ? member->get<int64_t>() : otherwise;
}

}  // namespace nsa::engine
