#include "engine/tokenizer/jinja/lexer.h"

#include <algorithm>
#include <cstdint>
#include <optional>
#include <utility>

#include "engine/text.h"
#include "engine/tokenizer/jinja/python_text.h"
#include "engine/tokenizer/jinja/status.h"

namespace nsa::engine::jinja {
namespace {

bool IsDigit(char c) { return c >= '0' && c <= '9'; }

bool IsNameStart(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' ||
         static_cast<unsigned char>(c) >= 0x80;
}

std::string NormalizeLineEnds(std::string_view source) {
  std::string out;
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] == '\r') {
      out += '\n';
      if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
    } else {
      out += source[i];
    }
  }
  if (!out.empty() && out.back() == '\n') out.pop_back();
  return out;
}

// The value of `digits` in base 8 or 16; nothing if one is not a digit of the base.
std::optional<uint32_t> ParseDigits(std::string_view digits, int base) {
  uint32_t value = 0;
  for (char c : digits) {
    int digit = IsDigit(c) ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c - 'A' + 10;
    if (digit < 0 || digit >= base) return std::nullopt;
    value = value * static_cast<uint32_t>(base) + static_cast<uint32_t>(digit);
  }
  return value;
}

class Lexer {
 public:
  explicit Lexer(std::string source) : source_(std::move(source)) {}

  absl::StatusOr<std::vector<Token>> Run() {
    while (at_ < source_.size()) JINJA_RETURN_IF_ERROR(LexText());
    Emit(Token::Kind::kEnd, "");
    return std::move(tokens_);
  }

 private:
  std::string_view Rest() const { return std::string_view(source_).substr(at_); }
  bool StartsWith(std::string_view prefix) const {
    return Rest().substr(0, prefix.size()) == prefix;
  }
  void Emit(Token::Kind kind, std::string text) {
    tokens_.push_back({kind, std::move(text), line_});
  }
  template <typename... Parts>
  absl::Status Fail(const Parts&... parts) const {
    return Error("line ", line_, ": ", parts...);
  }

  void Advance(size_t bytes) {
    const auto begin = source_.begin() + static_cast<std::ptrdiff_t>(at_);
    line_ += static_cast<int>(std::count(begin, begin + static_cast<std::ptrdiff_t>(bytes), '\n'));
    at_ += bytes;
  }

  size_t SpaceBytes() const {
    return Rest().size() - Strip(Rest(), std::nullopt, Side::kLeft).size();
  }

  // The length of the end mark that stands here, with the white space that it takes away; 0 if
  // none does.
  size_t EndMark(std::string_view mark, bool takes_newline, bool plus_allowed) const {
    if (StartsWith(mark)) {
      return mark.size() + (takes_newline && Rest().substr(mark.size(), 1) == "\n" ? 1 : 0);
    }
    if (Rest().substr(1, mark.size()) != mark) return 0;
    if (plus_allowed && source_[at_] == '+') return 1 + mark.size();
    if (source_[at_] != '-') return 0;
    const std::string_view after = Rest().substr(1 + mark.size());
    return 1 + mark.size() + after.size() - Strip(after, std::nullopt, Side::kLeft).size();
  }

  void TakeEndMark(size_t bytes) {
    Advance(bytes);
    line_starting_ = source_[at_ - 1] == '\n';
  }

  // Text up to the next mark, then all that the mark opens.
  absl::Status LexText() {
    size_t open = at_;
    while (true) {
      open = source_.find('{', open);
      if (open == std::string::npos || open + 1 >= source_.size()) {
        Emit(Token::Kind::kText, std::string(Rest()));
        at_ = source_.size();
        return absl::OkStatus();
      }
      if (std::string_view("{%#").find(source_[open + 1]) != std::string_view::npos) break;
      ++open;
    }
    const char kind = source_[open + 1];
    const char sign = open + 2 < source_.size() ? source_[open + 2] : '\0';
    std::string_view text = Rest().substr(0, open - at_);
    if (sign == '-') {
      text = Strip(text, std::nullopt, Side::kRight);
    } else if (sign != '+' && kind != '{') {
      text = StripLine(text);
    }
    if (!text.empty()) Emit(Token::Kind::kText, std::string(text));
    Advance(open - at_ + 2 + (sign == '-' || sign == '+' ? 1 : 0));
    if (kind == '#') return SkipComment();
    if (const size_t bytes = kind == '%' ? RawMark("raw", false) : 0; bytes > 0) {
      Advance(bytes);
      return LexRaw();
    }
    return LexCode(kind == '%');
  }

  // lstrip_blocks: a block that stands alone after white space takes that away.
  std::string_view StripLine(std::string_view text) const {
    const size_t newline = text.rfind('\n');
    if (newline == std::string_view::npos && !line_starting_) return text;
    const size_t line = newline == std::string_view::npos ? 0 : newline + 1;
    const bool blank = Strip(text.substr(line), std::nullopt, Side::kLeft).empty();
    return blank ? text.substr(0, line) : text;
  }

  // The length of what closes the tag `name` if that is what stands here; 0 if not.
  size_t RawMark(std::string_view name, bool takes_newline) {
    const size_t before = at_;
    at_ += SpaceBytes();
    const bool named = StartsWith(name);
    if (named) at_ += name.size();
    at_ += SpaceBytes();
    const size_t mark =
        named && at_ < source_.size() ? EndMark("%}", takes_newline, takes_newline) : 0;
    const size_t end = at_ + mark;
    at_ = before;
    return mark == 0 ? 0 : end - before;
  }

  // Text up to {% endraw %}, whatever it holds.
  absl::Status LexRaw() {
    for (size_t open = source_.find("{%", at_); open != std::string::npos;
         open = source_.find("{%", open + 1)) {
      const size_t begin = at_;
      const char sign = open + 2 < source_.size() ? source_[open + 2] : '\0';
      const bool is_signed = sign == '-' || sign == '+';
      at_ = open + 2 + (is_signed ? 1 : 0);
      const size_t bytes = RawMark("endraw", true);
      at_ = begin;
      if (bytes == 0) continue;
      std::string_view text = Rest().substr(0, open - at_);
      if (sign == '-') {
        text = Strip(text, std::nullopt, Side::kRight);
      } else if (sign != '+') {
        text = StripLine(text);
      }
      if (!text.empty()) Emit(Token::Kind::kText, std::string(text));
      Advance(open - at_ + 2 + (is_signed ? 1 : 0));
      TakeEndMark(bytes);
      return absl::OkStatus();
    }
    return Fail("'raw' has no '{% endraw %}'");
  }

  absl::Status SkipComment() {
    const size_t end = source_.find("#}", at_);
    if (end == std::string::npos) return Fail("the comment has no end; add '#}'");
    const bool signed_end = end > at_ && (source_[end - 1] == '-' || source_[end - 1] == '+');
    Advance(end - at_ - (signed_end ? 1 : 0));
    TakeEndMark(EndMark("#}", true, true));
    return absl::OkStatus();
  }

  absl::Status LexCode(bool block) {
    Emit(block ? Token::Kind::kBlockBegin : Token::Kind::kPrintBegin, "");
    const int first_line = line_;
    std::string open_brackets;
    while (true) {
      Advance(SpaceBytes());
      if (at_ >= source_.size()) {
        return Error("line ", first_line, ": ", block ? "'{%' has no '%}'" : "'{{' has no '}}'");
      }
      if (open_brackets.empty()) {
        if (size_t mark = block ? EndMark("%}", true, true) : EndMark("}}", false, false)) {
          Emit(block ? Token::Kind::kBlockEnd : Token::Kind::kPrintEnd, "");
          TakeEndMark(mark);
          return absl::OkStatus();
        }
      }
      const char c = source_[at_];
      if (IsNameStart(c)) {
        LexName();
      } else if (IsDigit(c)) {
        LexNumber();
      } else if (c == '\'' || c == '"') {
        JINJA_RETURN_IF_ERROR(LexString());
      } else {
        JINJA_RETURN_IF_ERROR(LexOperator(open_brackets));
      }
    }
  }

  void LexName() {
    size_t end = at_;
    while (end < source_.size() && (IsNameStart(source_[end]) || IsDigit(source_[end]))) {
      // White space beyond ASCII ends a name though its bytes look like letters.
      const size_t bytes = static_cast<unsigned char>(source_[end]) < 0xC0   ? 1
                           : static_cast<unsigned char>(source_[end]) < 0xE0 ? 2
                           : static_cast<unsigned char>(source_[end]) < 0xF0 ? 3
                                                                             : 4;
      if (IsSpace(std::string_view(source_).substr(end, bytes))) break;
      end += bytes;
    }
    Emit(Token::Kind::kName, source_.substr(at_, end - at_));
    at_ = end;
  }

  std::string TakeDigits() {
    std::string digits;
    while (at_ < source_.size()) {
      const bool joined = source_[at_] == '_' && at_ + 1 < source_.size() &&
                          IsDigit(source_[at_ + 1]) && !digits.empty();
      if (!IsDigit(source_[at_]) && !joined) break;
      if (!joined) digits += source_[at_];
      ++at_;
    }
    return digits;
  }

  void LexNumber() {
    // After a dot stands an index ("a.0.1"), never a fraction.
    const bool index = at_ > 0 && source_[at_ - 1] == '.';
    std::string number = TakeDigits();
    bool real = false;
    auto digit_at = [&](size_t i) { return i < source_.size() && IsDigit(source_[i]); };
    if (!index && StartsWith(".") && digit_at(at_ + 1)) {
      ++at_;
      number += '.' + TakeDigits();
      real = true;
    }
    if (!index && (StartsWith("e") || StartsWith("E"))) {
      const size_t sign = Rest().substr(1, 1) == "+" || Rest().substr(1, 1) == "-" ? 1 : 0;
      if (digit_at(at_ + 1 + sign)) {
        number += source_.substr(at_, 1 + sign);
        at_ += 1 + sign;
        number += TakeDigits();
        real = true;
      }
    }
    Emit(real ? Token::Kind::kFloat : Token::Kind::kInteger, std::move(number));
  }

  absl::Status LexString() {
    const char quote = source_[at_];
    std::string value;
    size_t at = at_ + 1;
    while (at < source_.size() && source_[at] != quote) {
      if (source_[at] != '\\') {
        value += source_[at++];
      } else {
        JINJA_RETURN_IF_ERROR(Unescape(at, value));
      }
    }
    if (at >= source_.size()) return Fail("the string has no closing quote");
    Emit(Token::Kind::kString, std::move(value));
    Advance(at + 1 - at_);
    return absl::OkStatus();
  }

  // `at` is at a backslash; moves past the escape.
  absl::Status Unescape(size_t& at, std::string& value) const {
    if (at + 1 >= source_.size()) return Fail("the string has no closing quote");
    const char c = source_[at + 1];
    const std::string_view from = "ntrabfv\\'\"";
    const std::string_view to = "\n\t\r\a\b\f\v\\'\"";
    if (const size_t known = from.find(c); known != std::string_view::npos) {
      value += to[known];
      at += 2;
    } else if (c == '\n') {
      at += 2;
    } else if (c >= '0' && c <= '7') {
      size_t end = at + 1;
      while (end < at + 4 && end < source_.size() && source_[end] >= '0' && source_[end] <= '7') {
        ++end;
      }
      AppendUtf8(*ParseDigits(std::string_view(source_).substr(at + 1, end - at - 1), 8), value);
      at = end;
    } else if (c == 'x' || c == 'u' || c == 'U') {
      const size_t count = c == 'x' ? 2 : c == 'u' ? 4 : 8;
      const std::string_view digits = std::string_view(source_).substr(at + 2, count);
      const std::optional<uint32_t> code = ParseDigits(digits, 16);
      const bool valid = digits.size() == count && code && *code <= 0x10FFFF &&
                         !(*code >= 0xD800 && *code < 0xE000);
      if (!valid) return Fail("'\\", std::string(1, c), "' is not followed by a character's code");
      AppendUtf8(*code, value);
      at += 2 + count;
    } else if (c == 'N') {
      return Fail("characters by name ('\\N{...}') are not supported; write the character");
    } else {
      value += '\\';
      ++at;
    }
    return absl::OkStatus();
  }

  absl::Status LexOperator(std::string& open_brackets) {
    static constexpr std::string_view kDouble[] = {"**", "//", "==", "!=", ">=", "<="};
    for (std::string_view name : kDouble) {
      if (!StartsWith(name)) continue;
      Emit(Token::Kind::kOperator, std::string(name));
      at_ += 2;
      return absl::OkStatus();
    }
    const char c = source_[at_];
    if (std::string_view("+-*/%~()[]{}<>=.:|,;").find(c) == std::string_view::npos) {
      return Fail("unexpected character '", View(Characters(Rest().substr(0, 4)).front()), "'");
    }
    if (c == '(' || c == '[' || c == '{') open_brackets += c;
    if (c == ')' || c == ']' || c == '}') {
      const char open = c == ')' ? '(' : c == ']' ? '[' : '{';
      if (open_brackets.empty() || open_brackets.back() != open) {
        return Fail("unexpected '", std::string(1, c), "'");
      }
      open_brackets.pop_back();
    }
    Emit(Token::Kind::kOperator, std::string(1, c));
    ++at_;
    return absl::OkStatus();
  }

  std::string source_;
  size_t at_ = 0;
  int line_ = 1;
  bool line_starting_ = true;
  std::vector<Token> tokens_;
};

}  // namespace

absl::StatusOr<std::vector<Token>> Lex(std::string_view source) {
  return Lexer(NormalizeLineEnds(source)).Run();
}

}  // namespace nsa::engine::jinja
