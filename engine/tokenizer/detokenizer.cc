#include "engine/tokenizer/tokenizer.h"
#include "engine/tokenizer/utf8.h"

namespace nsa::engine {

std::string Detokenizer::Append(int32_t id) {
  if (skip_special_tokens_ && tokenizer_->IsSpecial(id)) return "";
  std::string bytes = tokenizer_->TokenBytes(id);
  if (first_ && tokenizer_->strips_leading_space() && !tokenizer_->IsSpecial(id)) {
    if (!bytes.empty() && bytes[0] == ' ') bytes.erase(0, 1);
  }
  if (!tokenizer_->IsSpecial(id)) first_ = false;

  pending_ += bytes;
  std::string text;
  std::string_view rest = pending_;
  while (true) {
    const size_t valid = ValidUtf8Prefix(rest);
    text.append(rest.substr(0, valid));
    rest.remove_prefix(valid);
    if (rest.empty()) break;
    const Utf8Head head = ReadUtf8Head(rest);
    if (head.kind == Utf8Head::Kind::kIncomplete) break;
    text.append(kReplacementCharacter);
    rest.remove_prefix(head.num_bytes);
  }
  pending_ = std::string(rest);  // at most three bytes
  return text;
}

std::string Detokenizer::Flush() {
  const std::string text = ReplaceInvalidUtf8(pending_);
  pending_.clear();
  return text;
}

}  // namespace nsa::engine
