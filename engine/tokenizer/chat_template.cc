#include "engine/tokenizer/chat_template.h"

#include <utility>

#include "engine/text.h"
#include "engine/tokenizer/jinja/interpreter.h"
#include "engine/tokenizer/jinja/parser.h"
#include "engine/tokenizer/jinja/status.h"
#include "engine/tokenizer/utf8.h"

namespace nsa::engine {
namespace {

constexpr size_t kMaxSourceBytes = size_t{1} << 20;

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
    // Tools and documents are defined, and none: so does transformers call its templates.
    auto text = jinja::Interpret(
        body_, {{"messages", std::move(list)},
                {"add_generation_prompt", jinja::Value::OfBool(add_generation_prompt)},
                {"bos_token", Text(bos_token_)},
                {"eos_token", Text(eos_token_)},
                {"tools", jinja::Value()},
                {"documents", jinja::Value()}});
    if (text.ok()) return text;
    return jinja::Error("chat template, ", text.status().message());
  }

 private:
  static jinja::Value Text(std::string text) { return jinja::Value::OfText(std::move(text)); }

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
