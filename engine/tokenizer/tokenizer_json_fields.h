#ifndef NSA_ENGINE_TOKENIZER_TOKENIZER_JSON_FIELDS_H_
#define NSA_ENGINE_TOKENIZER_TOKENIZER_JSON_FIELDS_H_

#include <cstdint>
#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

#include "absl/status/status.h"

namespace nsa::engine {

/// InvalidArgument names a field of a tokenizer.json's components, of its model or of an added
/// token whose type is wrong. What it lets pass, the functions below read without another error.
absl::Status CheckTokenizerFields(const nlohmann::json& document);

/// The member `name`; null where there is none, or it is null.
const nlohmann::json* Member(const nlohmann::json& object, const char* name);
std::string Text(const nlohmann::json& object, const char* name, std::string_view otherwise = "");
bool Flag(const nlohmann::json& object, const char* name, bool otherwise);
std::string Type(const nlohmann::json& component);
int64_t Count(const nlohmann::json& object, const char* name, int64_t otherwise);

/// Calls visit(component) for `component`, or for each member `list` of a Sequence. Null: for none.
absl::Status ForEachComponent(const nlohmann::json* component, const char* list,
                              const std::function<absl::Status(const nlohmann::json&)>& visit);
/// Unimplemented: "`what` of type … is not known".
absl::Status UnknownComponent(std::string_view what, const nlohmann::json& component);

}  // namespace nsa::engine

#endif  // NSA_ENGINE_TOKENIZER_TOKENIZER_JSON_FIELDS_H_
