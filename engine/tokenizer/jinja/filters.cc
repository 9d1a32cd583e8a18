// Filters over text and numbers; how arguments are bound.

#include "engine/tokenizer/jinja/filters.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"
#include "engine/text.h"
#include "engine/tokenizer/jinja/python_text.h"
#include "engine/tokenizer/jinja/status.h"
#include "engine/tokenizer/jinja/text_methods.h"

namespace nsa::engine::jinja {
namespace {

using Result = absl::StatusOr<Value>;

// What is made of safe text alone is safe.
Result Like(const Value& input, Result result) {
  return result.ok() && input.IsSafe() ? Result(result->AsSafe()) : result;
}

// For the filters that take any value and work on its text.
template <std::string (*Convert)(std::string_view)>
Result TextFilter(const Value& input, const Arguments& arguments, Budget& budget) {
  JINJA_RETURN_IF_ERROR(Bind(arguments, {}).status());
  JINJA_ASSIGN_OR_RETURN(std::string text, ToText(input, budget));
  return Like(input, MakeText(Convert(text), budget));
}

Result TrimFilter(const Value& input, const Arguments& arguments, Budget& budget) {
  JINJA_ASSIGN_OR_RETURN(auto bound, Bind(arguments, {"chars"}));
  JINJA_ASSIGN_OR_RETURN(std::string text, ToText(input, budget));
  std::optional<std::string_view> characters;
  if (bound[0] != nullptr && !bound[0]->IsNone()) {
    if (!bound[0]->AsText()) return Error("trim needs a string");
    characters = *bound[0]->AsText();
    JINJA_RETURN_IF_ERROR(budget.ChargeBytes(text.size() * characters->size()));
  }
  return Like(input, MakeText(std::string(Strip(text, characters, Side::kBoth)), budget));
}

Result LengthFilter(const Value& input, const Arguments& arguments, Budget& budget) {
  JINJA_RETURN_IF_ERROR(Bind(arguments, {}).status());
  JINJA_ASSIGN_OR_RETURN(int64_t length, Length(input, budget));
  return Value::OfInt(length);
}

Result DefaultFilter(const Value& input, const Arguments& arguments, Budget&) {
  JINJA_ASSIGN_OR_RETURN(auto bound, Bind(arguments, {"default_value", "boolean"}));
  const bool any_false = bound[1] != nullptr && Truth(*bound[1]);
  if (!input.IsUndefined() && !(any_false && !Truth(input))) return input;
  return bound[0] == nullptr ? Value::OfText("") : *bound[0];
}

Result ReplaceFilter(const Value& input, const Arguments& arguments, Budget& budget) {
  JINJA_ASSIGN_OR_RETURN(auto bound, Bind(arguments, {"old", "new", "count"}));
  if (bound[0] == nullptr || bound[1] == nullptr) return Error("replace needs two strings");
  JINJA_ASSIGN_OR_RETURN(std::string text, ToText(input, budget));
  JINJA_ASSIGN_OR_RETURN(std::string old, ToText(*bound[0], budget));
  JINJA_ASSIGN_OR_RETURN(std::string replacement, ToText(*bound[1], budget));
  int64_t count = -1;
  if (bound[2] != nullptr && !bound[2]->IsNone()) {
    if (!bound[2]->AsInt()) return Error("replace: the count must be an integer");
    count = *bound[2]->AsInt();
  }
  auto replaced = Replace(text, old, replacement, count, kMaxTextBytes);
  if (!replaced) return Error("a string is over 64 MiB");
  return MakeText(std::move(*replaced), budget);
}

// As many spaces, or the text itself.
absl::StatusOr<std::string> Indentation(const Value* width, Budget& budget) {
  if (width == nullptr) return std::string(4, ' ');
  if (width->AsText()) return *width->AsText();
  if (!width->AsInt()) return Error("indent: the width must be a number or a string");
  const int64_t spaces = std::max<int64_t>(*width->AsInt(), 0);
  JINJA_RETURN_IF_ERROR(budget.ChargeBytes(static_cast<uint64_t>(spaces)));
  return std::string(static_cast<size_t>(spaces), ' ');
}

Result IndentFilter(const Value& input, const Arguments& arguments, Budget& budget) {
  JINJA_ASSIGN_OR_RETURN(auto bound, Bind(arguments, {"width", "first", "blank"}));
  if (const Undefined* undefined = input.As<Undefined>()) return Error(*undefined->reason);
  if (!input.AsText()) return Error("indent needs a string");
  JINJA_ASSIGN_OR_RETURN(std::string indentation, Indentation(bound[0], budget));
  const bool blank = bound[2] != nullptr && Truth(*bound[2]);
  std::string out;
  if (bound[1] != nullptr && Truth(*bound[1])) out = indentation;
  // A line end more, for a text that ends in one has an empty last line.
  const std::string text = *input.AsText() + '\n';
  bool first = true;
  for (std::string_view line : SplitLines(text)) {
    if (!first) out += '\n';
    if (!first && (blank || !line.empty())) out += indentation;
    out += line;
    first = false;
    JINJA_RETURN_IF_ERROR(budget.ChargeBytes(line.size() + indentation.size()));
    if (out.size() > kMaxTextBytes) return Error("a string is over 64 MiB");
  }
  return Like(input, MakeText(std::move(out), budget));
}

Result RoundFilter(const Value& input, const Arguments& arguments, Budget&) {
  JINJA_ASSIGN_OR_RETURN(auto bound, Bind(arguments, {"precision", "method"}));
  const std::string method =
      bound[1] != nullptr && bound[1]->AsText() ? *bound[1]->AsText() : "common";
  const auto precision = bound[0] == nullptr ? std::optional<int64_t>(0) : bound[0]->AsInt();
  const auto number = input.AsNumber();
  if (!number || !precision || *precision < 0 || *precision > 300) {
    return Error("round needs a number and a precision of 0 to 300");
  }
  if (method == "common") {
    if (const auto integer = input.AsInt()) return Value::OfInt(*integer);
    // Printing rounds the exact decimal value, halves to even, as Python's round does.
    const std::string text = absl::StrFormat("%.*f", static_cast<int>(*precision), *number);
    return Value::OfFloat(std::strtod(text.c_str(), nullptr));
  }
  if (method != "ceil" && method != "floor") return Error("round: the method is not known");
  const double scale = std::pow(10.0, static_cast<double>(*precision));
  const double scaled = *number * scale;
  return Value::OfFloat((method == "ceil" ? std::ceil(scaled) : std::floor(scaled)) / scale);
}

Result TruncateFilter(const Value& input, const Arguments& arguments, Budget& budget) {
  JINJA_ASSIGN_OR_RETURN(auto bound, Bind(arguments, {"length", "killwords", "end", "leeway"}));
  const auto length = bound[0] == nullptr ? std::optional<int64_t>(255) : bound[0]->AsInt();
  const bool default_leeway = bound[3] == nullptr || bound[3]->IsNone();
  const auto leeway = default_leeway ? std::optional<int64_t>(5) : bound[3]->AsInt();
  const std::string end = bound[2] != nullptr && bound[2]->AsText() ? *bound[2]->AsText() : "...";
  const auto end_length = static_cast<int64_t>(CountCharacters(end));
  if (!length || !leeway || *length < end_length || *leeway < 0) {
    return Error("truncate: the length must reach for the end, the leeway must not be negative");
  }
  // What is short enough may be anything that has a length.
  JINJA_ASSIGN_OR_RETURN(int64_t size, Length(input, budget));
  if (size <= *length || size - *length <= *leeway) return input;
  if (!input.AsText()) return Error("truncate needs a string");
  const std::string_view text = *input.AsText();
  std::string_view kept =
      text.substr(0, ByteOffset(text, static_cast<size_t>(*length - end_length)));
  if (bound[1] == nullptr || !Truth(*bound[1])) kept = kept.substr(0, kept.rfind(' '));
  return Like(input, MakeText(std::string(kept) + end, budget));
}

Result StringFilter(const Value& input, const Arguments& arguments, Budget& budget) {
  JINJA_RETURN_IF_ERROR(Bind(arguments, {}).status());
  if (input.AsText()) return input;
  JINJA_ASSIGN_OR_RETURN(std::string text, ToText(input, budget));
  return MakeText(std::move(text), budget);
}

Result SafeFilter(const Value& input, const Arguments& arguments, Budget& budget) {
  JINJA_ASSIGN_OR_RETURN(Value text, StringFilter(input, arguments, budget));
  return text.AsSafe();
}

Result EscapeFilter(const Value& input, const Arguments& arguments, Budget& budget) {
  JINJA_RETURN_IF_ERROR(Bind(arguments, {}).status());
  return Escape(input, budget);
}

Result ForceEscapeFilter(const Value& input, const Arguments& arguments, Budget& budget) {
  JINJA_ASSIGN_OR_RETURN(std::string text, ToText(input, budget));
  return EscapeFilter(Value::OfText(std::move(text)), arguments, budget);
}

Result CenterFilter(const Value& input, const Arguments& arguments, Budget& budget) {
  JINJA_ASSIGN_OR_RETURN(auto bound, Bind(arguments, {"width"}));
  JINJA_ASSIGN_OR_RETURN(Value text, StringFilter(input, {}, budget));
  const Value width = bound[0] == nullptr ? Value::OfInt(80) : *bound[0];
  return CallMethod(text, "center", {{width}, {}}, budget);
}

// Values by position or by name, never both.
Result FormatFilter(const Value& input, const Arguments& arguments, Budget& budget) {
  if (!arguments.positional.empty() && !arguments.named.empty()) {
    return Error("format takes positional or named values");
  }
  JINJA_ASSIGN_OR_RETURN(Value text, StringFilter(input, {}, budget));
  std::vector<std::pair<Value, Value>> named;
  for (const auto& [name, value] : arguments.named) named.emplace_back(Value::OfText(name), value);
  JINJA_ASSIGN_OR_RETURN(Value values, named.empty() ? MakeSequence(Sequence::Kind::kTuple,
                                                                    arguments.positional, budget)
                                                     : MakeDict(std::move(named), budget));
  return FormatPercent(text, values, budget);
}

// Python's float() of a string; nothing if it is no number.
std::optional<double> ParseNumber(const std::string& text) {
  const std::string trimmed(Strip(text, std::nullopt, Side::kBoth));
  double number = 0;
  // Abseil reads hexadecimal floats too, Python does not.
  if (trimmed.find_first_of("xX(") != std::string::npos) return std::nullopt;
  if (!absl::SimpleAtod(trimmed, &number)) return std::nullopt;
  return number;
}

// Python's int(); nothing for what is no number.
absl::StatusOr<std::optional<int64_t>> ToInt(const Value& input) {
  if (const auto integer = input.AsInt()) return integer;
  std::optional<double> number = input.AsNumber();
  if (number && std::isinf(*number)) return Error("cannot make an integer of infinity");
  if (const std::string* text = input.AsText()) {
    int64_t integer = 0;
    const std::string_view trimmed = Strip(*text, std::nullopt, Side::kBoth);
    if (absl::SimpleAtoi(View(trimmed), &integer)) return integer;
    number = ParseNumber(*text);
  }
  if (!number || !std::isfinite(*number)) return std::nullopt;
  if (!(std::abs(*number) < 9.2e18)) return Error("an integer is over 64 bits");
  return static_cast<int64_t>(*number);
}

Result IntFilter(const Value& input, const Arguments& arguments, Budget& budget) {
  JINJA_ASSIGN_OR_RETURN(auto bound, Bind(arguments, {"default", "base"}));
  if (bound[1] != nullptr && bound[1]->AsInt() != 10) return Error("int: only base 10");
  if (input.IsUndefined()) return Error(*input.As<Undefined>()->reason);
  if (input.AsText()) JINJA_RETURN_IF_ERROR(budget.ChargeBytes(input.AsText()->size()));
  JINJA_ASSIGN_OR_RETURN(std::optional<int64_t> integer, ToInt(input));
  if (integer) return Value::OfInt(*integer);
  return bound[0] == nullptr ? Value::OfInt(0) : *bound[0];
}

Result FloatFilter(const Value& input, const Arguments& arguments, Budget& budget) {
  JINJA_ASSIGN_OR_RETURN(auto bound, Bind(arguments, {"default"}));
  if (input.IsUndefined()) return Error(*input.As<Undefined>()->reason);
  std::optional<double> number = input.AsNumber();
  if (input.AsText()) {
    JINJA_RETURN_IF_ERROR(budget.ChargeBytes(input.AsText()->size()));
    number = ParseNumber(*input.AsText());
  }
  if (number) return Value::OfFloat(*number);
  return bound[0] == nullptr ? Value::OfFloat(0) : *bound[0];
}

Result AbsFilter(const Value& input, const Arguments& arguments, Budget&) {
  JINJA_RETURN_IF_ERROR(Bind(arguments, {}).status());
  if (const double* number = input.As<double>()) return Value::OfFloat(std::abs(*number));
  const auto integer = input.AsInt();
  if (!integer || *integer == INT64_MIN) return Error("abs needs a number");
  return Value::OfInt(std::abs(*integer));
}

constexpr std::pair<std::string_view, FilterFunction> kFilters[] = {
    {"abs", AbsFilter},           {"capitalize", TextFilter<Capitalize>},
    {"center", CenterFilter},     {"count", LengthFilter},
    {"d", DefaultFilter},         {"default", DefaultFilter},
    {"e", EscapeFilter},          {"escape", EscapeFilter},
    {"float", FloatFilter},       {"forceescape", ForceEscapeFilter},
    {"format", FormatFilter},     {"indent", IndentFilter},
    {"int", IntFilter},           {"length", LengthFilter},
    {"lower", TextFilter<Lower>}, {"replace", ReplaceFilter},
    {"round", RoundFilter},       {"safe", SafeFilter},
    {"string", StringFilter},     {"title", TextFilter<TitleWords>},
    {"tojson", ToJsonFilter},     {"trim", TrimFilter},
    {"truncate", TruncateFilter}, {"upper", TextFilter<Upper>},
};

}  // namespace

FilterFunction FindFilter(std::string_view name) {
  for (const auto& [known, function] : kFilters) {
    if (known == name) return function;
  }
  return FindListFilter(name);
}

absl::StatusOr<std::vector<const Value*>> Bind(const Arguments& arguments,
                                               std::initializer_list<std::string_view> names) {
  if (arguments.positional.size() > names.size()) {
    return Error("takes at most ", names.size(), " arguments");
  }
  std::vector<const Value*> bound(names.size(), nullptr);
  for (size_t i = 0; i < arguments.positional.size(); ++i) bound[i] = &arguments.positional[i];
  for (const auto& [name, value] : arguments.named) {
    const auto* known = std::find(names.begin(), names.end(), name);
    if (known == names.end()) return Error("takes no argument '", name, "'");
    const Value*& slot = bound[static_cast<size_t>(known - names.begin())];
    if (slot != nullptr) return Error("got the argument '", name, "' twice");
    slot = &value;
  }
  return bound;
}

}  // namespace nsa::engine::jinja
