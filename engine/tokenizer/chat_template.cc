#include "engine/tokenizer/chat_template.h"

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>
#include <utility>

#include "engine/text.h"
#include "engine/tokenizer/jinja/interpreter.h"
#include "engine/tokenizer/jinja/parser.h"
#include "engine/tokenizer/jinja/status.h"
#include "engine/tokenizer/utf8.h"

namespace nsa::engine {
namespace {

constexpr size_t kMaxSourceBytes = size_t{1} << 20;

using Json = nlohmann::ordered_json;  // templates print objects in the order that they were given
using Variables = std::vector<std::pair<std::string, jinja::Value>>;

jinja::Value Text(std::string text) { return jinja::Value::OfText(std::move(text)); }

absl::StatusOr<jinja::Value> ValueOf(const Json& json, int depth, jinja::Budget& budget) {
  if (depth > jinja::kMaxValueDepth) {
    return jinja::Error("values are nested deeper than ", jinja::kMaxValueDepth);
  }
  if (json.is_string()) return Text(json.get<std::string>());
  if (json.is_boolean()) return jinja::Value::OfBool(json.get<bool>());
  if (json.is_number_unsigned() &&
      json.get<uint64_t>() > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
    return jinja::Error("an integer is over 64 bits");
  }
  if (json.is_number_integer()) return jinja::Value::OfInt(json.get<int64_t>());
  if (json.is_number_float()) return jinja::Value::OfFloat(json.get<double>());
  if (json.is_array()) {
    std::vector<jinja::Value> items;
    for (const Json& item : json) {
      JINJA_ASSIGN_OR_RETURN(jinja::Value value, ValueOf(item, depth + 1, budget));
      items.push_back(std::move(value));
    }
    return jinja::MakeSequence(jinja::Sequence::Kind::kList, std::move(items), budget);
  }
  if (!json.is_object()) return jinja::Value();
  std::vector<std::pair<jinja::Value, jinja::Value>> items;
  for (const auto& [key, item] : json.items()) {
    JINJA_ASSIGN_OR_RETURN(jinja::Value value, ValueOf(item, depth + 1, budget));
    items.emplace_back(Text(key), std::move(value));
  }
  return jinja::MakeDict(std::move(items), budget);
}

// Reasoning is sent under one of three names, and templates read one of two. As transformers has
// it, the first that is there counts, and both are filled.
Json WithReasoning(const Json& message) {
  for (const char* name : {"reasoning_content", "thinking", "reasoning"}) {
    if (!message.is_object() || !message.contains(name) || message[name].is_null()) continue;
    Json filled = Json::object({{"thinking", message[name]}});
    for (const auto& [key, value] : message.items()) filled[key] = value;
    filled["reasoning_content"] = message[name];
    return filled;
  }
  return message;
}

bool IsUtf8(std::string_view text) { return ValidUtf8Prefix(text) == text.size(); }

class JinjaChatTemplate : public ChatTemplate {
 public:
  JinjaChatTemplate(jinja::Body body, std::string bos_token, std::string eos_token)
      : body_(std::move(body)),
        bos_token_(std::move(bos_token)),
        eos_token_(std::move(eos_token)) {}

  absl::StatusOr<std::string> Render(const std::vector<ChatMessage>& messages,
                                     bool add_generation_prompt) const override {
    // What the caller's own messages cost is not held against the template.
    jinja::Budget unlimited;
    std::vector<jinja::Value> items;
    for (size_t i = 0; i < messages.size(); ++i) {
      if (!IsUtf8(messages[i].role) || !IsUtf8(messages[i].content)) {
        return absl::InvalidArgumentError(absl::StrCat("messages[", i, "] is not valid UTF-8"));
      }
      JINJA_ASSIGN_OR_RETURN(jinja::Value message,
                             jinja::MakeDict({{Text("role"), Text(messages[i].role)},
                                              {Text("content"), Text(messages[i].content)}},
                                             unlimited));
      items.push_back(std::move(message));
    }
    jinja::Budget one_more;
    JINJA_ASSIGN_OR_RETURN(jinja::Value list, jinja::MakeSequence(jinja::Sequence::Kind::kList,
                                                                  std::move(items), one_more));
    return Fill({{"messages", std::move(list)},
                 {"add_generation_prompt", jinja::Value::OfBool(add_generation_prompt)}});
  }

  absl::StatusOr<std::string> RenderJson(std::string_view variables) const override {
    Json given = Json::parse(variables, nullptr, false);
    if (!given.is_object()) return jinja::Error("the template's variables are no JSON object");
    if (const auto it = given.find("messages"); it != given.end() && it->is_array()) {
      for (Json& message : *it) message = WithReasoning(message);
    }
    jinja::Budget unlimited;
    Variables values;
    for (const auto& [name, json] : given.items()) {
      auto value = ValueOf(json, 1, unlimited);
      if (!value.ok()) return jinja::Error(name, ": ", value.status().message());
      values.emplace_back(name, *std::move(value));
    }
    return Fill(std::move(values));
  }

 private:
  absl::StatusOr<std::string> Fill(Variables variables) const {
    // Tools and documents are defined, and none, and a token that the checkpoint does not have is
    // not defined: so does transformers call its templates.
    Variables defaults = {{"add_generation_prompt", jinja::Value::OfBool(false)},
                          {"tools", jinja::Value()},
                          {"documents", jinja::Value()}};
    if (!bos_token_.empty()) defaults.emplace_back("bos_token", Text(bos_token_));
    if (!eos_token_.empty()) defaults.emplace_back("eos_token", Text(eos_token_));
    for (const auto& [name, value] : defaults) {
      const bool given = std::any_of(variables.begin(), variables.end(),
                                     [&](const auto& variable) { return variable.first == name; });
      if (!given) variables.emplace_back(name, value);
    }
    auto text = jinja::Interpret(body_, std::move(variables));
    if (text.ok()) return text;
    return jinja::Error("chat template, ", text.status().message());
  }

  const jinja::Body body_;
  const std::string bos_token_;
  const std::string eos_token_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<ChatTemplate>> ChatTemplate::Parse(std::string_view source,
                                                                  std::string bos_token,
                                                                  std::string eos_token) {
  if (source.size() > kMaxSourceBytes) {
    return jinja::Error("the chat template has ", source.size(), " bytes; at most ",
                        kMaxSourceBytes, " are read");
  }
  if (!IsUtf8(source) || !IsUtf8(bos_token) || !IsUtf8(eos_token)) {
    return jinja::Error("the chat template or its bos or eos token is not valid UTF-8");
  }
  auto body = jinja::ParseTemplate(source);
  if (!body.ok()) return jinja::Error("chat template, ", body.status().message());
  return std::make_unique<JinjaChatTemplate>(*std::move(body), std::move(bos_token),
                                             std::move(eos_token));
}

}  // namespace nsa::engine
