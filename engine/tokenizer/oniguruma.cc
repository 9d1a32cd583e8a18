#include "engine/tokenizer/oniguruma.h"

#include <cctype>

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

}  // namespace

std::string ToPcre2(std::string_view pattern) {
  std::string result;
  bool in_class = false;
  for (size_t i = 0; i < pattern.size(); ++i) {
    const char c = pattern[i];
    if (c == '\\' && i + 1 < pattern.size()) {
      const char escaped = pattern[++i];
      if (escaped == 'u' && i + 4 < pattern.size() && IsHex(pattern.substr(i + 1, 4))) {
        result += "\\x{" + std::string(pattern.substr(i + 1, 4)) + "}";
        i += 4;
        continue;
      }
      const std::string instead = Escape(escaped, in_class);
      if (instead.empty()) {
        result += c;
        result += escaped;
      } else {
        result += instead;
      }
      continue;
    }
    if (c == '[' && !in_class) {
      in_class = true;
    } else if (c == ']') {
      in_class = false;
    }
    result += c;
  }
  return result;
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
