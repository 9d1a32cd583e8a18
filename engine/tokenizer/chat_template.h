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
  /// InvalidArgument names what the subset does not know and where.
  static absl::StatusOr<std::unique_ptr<ChatTemplate>> Parse(std::string_view source,
                                                             std::string bos_token,
                                                             std::string eos_token);
  virtual ~ChatTemplate() = default;

  /// The prompt; equal byte for byte to Python's jinja2 with trim_blocks and lstrip_blocks, as
  /// transformers renders it. InvalidArgument with the template's own message where it calls
  /// raise_exception.
  virtual absl::StatusOr<std::string> Render(const std::vector<ChatMessage>& messages,
                                             bool add_generation_prompt) const = 0;
};

}  // namespace nsa::engine

#endif  // NSA_ENGINE_TOKENIZER_CHAT_TEMPLATE_H_
