#include "engine/tokenizer/oniguruma.h"

#include <cctype>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/text.h"
#include "engine/weights/byte_cursor.h"

namespace nsa::engine {
namespace {

constexpr std::string_view kWhiteSpace = "\\t-\\r\\x{85}\\p{Z}";

/// What stands for the escape \c, inside a class or out of it; empty: as it is.
std::string Escape(char c, bool in_class) {
  if (c == 's') {
    return in_class ? std::string(kWhiteSpace) : "[" + std::string(kWhiteSpace) + "]";
  }
  if (c == 'S' && !in_class) return "[^" + std::string(kWhiteSpace) + "]";
  if (c == 'h') return in_class ? "0-9a-fA-F" : "[0-9a-fA-F]";
  if (c == 'H' && !in_class) return "[^0-9a-fA-F]";
  return "";
}

bool IsHex(std::string_view digits) {
  for (const char c : digits) {
    if (std::isxdigit(static_cast<unsigned char>(c)) == 0) return false;
  }
  return true;
}

/// Rewrites one pattern from left to right.
class Rewriter {
 public:
  explicit Rewriter(std::string_view pattern) : pattern_(pattern) {}

  absl::StatusOr<std::string> Rewrite() {
    while (at_ < pattern_.size()) {
      if (absl::Status status = in_class_ ? TakeInClass() : Take(); !status.ok()) return status;
    }
    return has_anchor_ ? "(?m)" + result_ : result_;
  }

 private:
  bool Follows(std::string_view text) const { return pattern_.substr(at_).starts_with(text); }
  void Copy(size_t count) {
    result_ += pattern_.substr(at_, count);
    at_ += count;
  }
  absl::Status Refuse(std::string_view what) const {
    return absl::UnimplementedError(absl::StrCat("pattern ", Quoted(pattern_), ": ", View(what),
                                                 " at byte ", at_, " is not known"));
  }

  absl::Status TakeEscape();
  absl::Status TakeInClass();
  absl::Status TakeGroup();
  absl::Status Take();

  std::string_view pattern_;
  std::string result_;
  size_t at_ = 0;
  bool in_class_ = false;
  bool has_anchor_ = false;
};

absl::Status Rewriter::TakeEscape() {
  if (at_ + 1 == pattern_.size()) {
    Copy(1);
    return absl::OkStatus();
  }
  const char escaped = pattern_[at_ + 1];
  // Ends of quotes, single bytes and whole graphemes: PCRE2's, or meaning another thing there.
  if (std::string_view("QECKyYOR").find(escaped) != std::string_view::npos) {
    return Refuse("an escape");
  }
  if (escaped == 'u' && at_ + 5 < pattern_.size() && IsHex(pattern_.substr(at_ + 2, 4))) {
    result_ += "\\x{" + std::string(pattern_.substr(at_ + 2, 4)) + "}";
    at_ += 6;
    return absl::OkStatus();
  }
  const std::string instead = Escape(escaped, in_class_);
  if (instead.empty()) {
    Copy(2);
    // A name or number in braces, which are no interval.
    const size_t end = Follows("{") ? pattern_.find('}', at_) : std::string_view::npos;
    if (end != std::string_view::npos) Copy(end + 1 - at_);
  } else {
    result_ += instead;
    at_ += 2;
  }
  return absl::OkStatus();
}

absl::Status Rewriter::TakeInClass() {
  const char c = pattern_[at_];
  if (c == '\\') return TakeEscape();
  if (Follows("&&")) return Refuse("an intersection of classes");
  if (c == '[' && !Follows("[:")) return Refuse("a class within a class");
  if (c == '[') {
    const size_t end = pattern_.find(":]", at_ + 2);
    if (end == std::string_view::npos) return Refuse("a class without an end");
    Copy(end + 2 - at_);
    return absl::OkStatus();
  }
  in_class_ = c != ']';
  Copy(1);
  return absl::OkStatus();
}

/// After "(?" come flags, of which m is another thing in either.
absl::Status Rewriter::TakeGroup() {
  size_t end = at_ + 2;
  while (end < pattern_.size() &&
         (std::isalpha(static_cast<unsigned char>(pattern_[end])) != 0 || pattern_[end] == '-')) {
    if (pattern_[end] == 'm') return Refuse("a flag m");
    ++end;
  }
  Copy(end - at_);
  return absl::OkStatus();
}

absl::Status Rewriter::Take() {
  const char c = pattern_[at_];
  if (c == '\\') return TakeEscape();
  if (Follows("(*")) return Refuse("(*");
  if (Follows("(?")) return TakeGroup();
  if (c == '}' && Follows("}+")) return Refuse("a plus behind an interval");
  has_anchor_ = has_anchor_ || c == '^' || c == '$';
  Copy(1);
  if (c != '[') return absl::OkStatus();
  in_class_ = true;
  // A bracket that closes at once stands for itself.
  if (Follows("^")) Copy(1);
  if (Follows("]")) {
    result_ += '\\';
    Copy(1);
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::string> ToPcre2(std::string_view pattern) {
  return Rewriter(pattern).Rewrite();
}

std::string QuotePattern(std::string_view text) {
  std::string result;
  for (const char c : text) {
    if (std::ispunct(static_cast<unsigned char>(c)) != 0) result += '\\';
    result += c;
  }
  return result;
}

}  // namespace nsa::engine
