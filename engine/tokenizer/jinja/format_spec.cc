#include "engine/tokenizer/jinja/format_spec.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "absl/strings/str_format.h"
#include "engine/text.h"
#include "engine/tokenizer/jinja/python_text.h"
#include "engine/tokenizer/jinja/status.h"

namespace nsa::engine::jinja {
namespace {

absl::StatusOr<Spec> ParseSpec(std::string_view text) {
  Spec spec;
  const std::string_view all = text;
  const size_t first = ByteOffset(text, 1);
  if (text.size() > first && std::string_view("<>=^").find(text[first]) != std::string_view::npos) {
    spec.fill = std::string(text.substr(0, first));
    spec.align = text[first];
    text.remove_prefix(first + 1);
  } else {
    TakeAny(text, "<>=^", spec.align);
  }
  char mark = '\0';
  TakeAny(text, "+- ", spec.sign);
  spec.alternate = TakeAny(text, "#", mark);
  if (text.substr(0, 1) == "0") {
    if (spec.align == '\0') {
      spec.fill.assign(1, '0');
      spec.align = '=';
    }
    text.remove_prefix(1);
  }
  JINJA_ASSIGN_OR_RETURN(spec.width, TakeNumber(text, kMaxFormatWidth));
  TakeAny(text, ",_", spec.grouping);
  if (text.size() > 1 && text[0] == '.' && text[1] >= '0' && text[1] <= '9') {
    text.remove_prefix(1);
    JINJA_ASSIGN_OR_RETURN(spec.precision, TakeNumber(text, kMaxFormatPrecision));
  }
  TakeAny(text, "bcdeEfFgGnosxX%", spec.type);
  if (!text.empty()) return Error("format: '", View(all), "' is not known");
  return spec;
}

// Separates the digits in front of the point.
std::string Group(std::string digits, char separator, size_t run) {
  size_t at = std::min(digits.find_first_not_of("0123456789abcdefABCDEF"), digits.size());
  while (at > run) {
    at -= run;
    digits.insert(at, 1, separator);
  }
  return digits;
}

// Without a type: as repr, or as many digits as the precision says, with a point in any case.
std::string GeneralDigits(double magnitude, std::optional<int64_t> precision) {
  if (!precision || !std::isfinite(magnitude)) return FloatText(magnitude);
  const int digits = static_cast<int>(std::max<int64_t>(*precision, 1));
  std::string text = absl::StrFormat("%.*e", digits - 1, magnitude);
  const size_t mark = text.find('e');
  const int exponent = std::atoi(text.c_str() + mark + 1);
  auto trim = [](std::string number) {
    if (number.find('.') == std::string::npos) return number;
    number.erase(number.find_last_not_of('0') + 1);
    if (number.back() == '.') number.pop_back();
    return number;
  };
  if (exponent < -4 || exponent >= digits - 1)
    return trim(text.substr(0, mark)) + text.substr(mark);
  text = trim(absl::StrFormat("%.*f", std::max(digits - 1 - exponent, 0), magnitude));
  return text.find('.') == std::string::npos ? text + ".0" : text;
}

}  // namespace

absl::StatusOr<int64_t> TakeNumber(std::string_view& text, int64_t max) {
  int64_t number = 0;
  while (!text.empty() && text[0] >= '0' && text[0] <= '9') {
    number = number * 10 + (text[0] - '0');
    if (number > max) return Error("a width or precision over ", max);
    text.remove_prefix(1);
  }
  return number;
}

bool TakeAny(std::string_view& text, std::string_view characters, char& out) {
  if (text.empty() || characters.find(text[0]) == std::string_view::npos) return false;
  out = text[0];
  text.remove_prefix(1);
  return true;
}

std::string Pad(const Spec& spec, std::string_view sign, std::string_view body, char align) {
  if (spec.align != '\0') align = spec.align;
  const auto size = static_cast<int64_t>(sign.size() + CountCharacters(body));
  const int64_t missing = std::max<int64_t>(spec.width - size, 0);
  const int64_t left = align == '<' ? 0 : align == '^' ? missing / 2 : missing;
  std::string out;
  if (align == '=') out += sign;
  for (int64_t i = 0; i < left; ++i) out += spec.fill;
  if (align != '=') out += sign;
  out += body;
  for (int64_t i = left; i < missing; ++i) out += spec.fill;
  return out;
}

absl::StatusOr<std::string> FormatInteger(const Spec& spec, int64_t number) {
  if (spec.precision) return Error("format: integers have no precision");
  const uint64_t magnitude =
      number < 0 ? -static_cast<uint64_t>(number) : static_cast<uint64_t>(number);
  if (spec.type == 'c') {
    const bool valid = number >= 0 && number <= 0x10FFFF && !(number >= 0xD800 && number < 0xE000);
    if (!valid) return Error("format: no character has this code");
    std::string character;
    AppendUtf8(static_cast<uint32_t>(number), character);
    return Pad(spec, "", character, '<');
  }
  const uint64_t base = spec.type == 'b'                       ? 2
                        : spec.type == 'o'                     ? 8
                        : spec.type == 'x' || spec.type == 'X' ? 16
                                                               : 10;
  const char* digits = spec.type == 'X' ? "0123456789ABCDEF" : "0123456789abcdef";
  std::string body;
  for (uint64_t rest = magnitude; rest > 0 || body.empty(); rest /= base)
    body += digits[rest % base];
  std::reverse(body.begin(), body.end());
  if (spec.grouping != '\0') {
    if (spec.fill == "0") return Error("format: zeros and grouping together are not supported");
    body = Group(body, spec.grouping, base == 10 ? 3 : 4);
  }
  std::string sign = number < 0 ? "-" : spec.sign == '-' ? "" : std::string(1, spec.sign);
  if (spec.alternate && base != 10) sign += std::string("0") + spec.type;
  return Pad(spec, sign, body, '>');
}

absl::StatusOr<std::string> FormatFloat(const Spec& spec, double number) {
  if (spec.alternate) return Error("format: '#' is not supported for floats");
  const bool percent = spec.type == '%';
  const double magnitude = std::isnan(number) ? number : std::abs(percent ? number * 100 : number);
  const int precision = static_cast<int>(spec.precision.value_or(6));
  std::string body;
  switch (spec.type) {
    case 'e':
      body = absl::StrFormat("%.*e", precision, magnitude);
      break;
    case 'E':
      body = absl::StrFormat("%.*E", precision, magnitude);
      break;
    case 'f':
    case '%':
      body = absl::StrFormat("%.*f", precision, magnitude);
      break;
    case 'F':
      body = absl::StrFormat("%.*F", precision, magnitude);
      break;
    case 'g':
    case 'n':
      body = absl::StrFormat("%.*g", precision, magnitude);
      break;
    case 'G':
      body = absl::StrFormat("%.*G", precision, magnitude);
      break;
    case '\0':
      body = GeneralDigits(magnitude, spec.precision);
      break;
    default:
      return Error("format: '", std::string(1, spec.type), "' is not for floats");
  }
  if (spec.grouping != '\0') {
    if (spec.fill == "0") return Error("format: zeros and grouping together are not supported");
    body = Group(body, spec.grouping, 3);
  }
  if (percent) body += '%';
  const bool negative = !std::isnan(number) && std::signbit(number);
  const std::string sign = negative ? "-" : spec.sign == '-' ? "" : std::string(1, spec.sign);
  return Pad(spec, sign, body, '>');
}

absl::StatusOr<std::string> FormatString(const Spec& spec, std::string_view text) {
  if ((spec.type != '\0' && spec.type != 's') || spec.sign != '-' || spec.alternate ||
      spec.grouping != '\0' || spec.align == '=') {
    return Error("format: this is not for strings");
  }
  if (spec.precision) text = text.substr(0, ByteOffset(text, static_cast<size_t>(*spec.precision)));
  return Pad(spec, "", text, '<');
}

absl::StatusOr<std::string> FormatValue(const Value& value, std::string_view specification,
                                        Budget& budget) {
  if (specification.empty()) return ToText(value, budget);
  JINJA_ASSIGN_OR_RETURN(Spec spec, ParseSpec(specification));
  JINJA_RETURN_IF_ERROR(budget.ChargeBytes(static_cast<uint64_t>(spec.width)));
  if (value.AsText()) return FormatString(spec, *value.AsText());
  const bool floats = std::string_view("eEfFgG%").find(spec.type) != std::string_view::npos;
  if (value.AsInt() && (spec.type == '\0' || !floats)) {
    if (spec.type == 's') return Error("format: 's' is not for numbers");
    return FormatInteger(spec, *value.AsInt());
  }
  if (value.AsNumber()) return FormatFloat(spec, *value.AsNumber());
  return Error("format: a '", View(TypeName(value)), "' takes no format");
}

}  // namespace nsa::engine::jinja
