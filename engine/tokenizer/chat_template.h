#ifndef NSA_ENGINE_TOKENIZER_CHAT_TEMPLATE_H_
#define NSA_ENGINE_TOKENIZER_CHAT_TEMPLATE_H_

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace nsa::engine {

struct ChatMessage {
  std::string role;
  std::string content;
};

/// A checkpoint's own chat template (a Jinja subset). Immutable: any thread.
class ChatTemplate {
 public:
  /// InvalidArgument names what the subset does not know and where. Without a token (empty) the
  /// template sees none.
  static absl::StatusOr<std::unique_ptr<ChatTemplate>> Parse(std::string_view source,
                                                             std::string bos_token,
                                                             std::string eos_token);
  virtual ~ChatTemplate() = default;

  /// The prompt; equal byte for byte to Python's jinja2 with trim_blocks and lstrip_blocks, as
  /// transformers renders it. InvalidArgument with the template's own message where it calls
  /// raise_exception.
  virtual absl::StatusOr<std::string> Render(const std::vector<ChatMessage>& messages,
                                             bool add_generation_prompt) const = 0;
  /// The same for all that a template may be given: `variables` is the text of a JSON object with
  /// "messages" (contents in parts, tool calls, ...), "add_generation_prompt", "tools", "documents"
  /// and what a template asks for by names of its own ("enable_thinking"). What is not given is as
  /// transformers has it; a bos_token or eos_token that is given counts.
  virtual absl::StatusOr<std::string> RenderJson(std::string_view variables) const = 0;
};

}  // namespace nsa::engine

#endif  // NSA_ENGINE_TOKENIZER_CHAT_TEMPLATE_H_
