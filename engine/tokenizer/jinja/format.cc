// str.format and the operator % of strings.

#include <algorithm>
#include <cmath>
#include <optional>

#include "absl/strings/numbers.h"
#include "engine/text.h"
#include "engine/tokenizer/jinja/format_spec.h"
#include "engine/tokenizer/jinja/python_text.h"
#include "engine/tokenizer/jinja/status.h"
#include "engine/tokenizer/jinja/text_methods.h"

namespace nsa::engine::jinja {
namespace {

/// The fields of str.format: {name.attribute[item]!conversion:spec}.
class Formatter {
 public:
  Formatter(const Value& self, const Arguments& arguments, Budget& budget)
      : self_(self), arguments_(arguments), budget_(budget) {}

  absl::StatusOr<Value> Run() {
    JINJA_ASSIGN_OR_RETURN(std::string out, Fill(*self_.AsText(), 2));
    JINJA_ASSIGN_OR_RETURN(Value text, MakeText(std::move(out), budget_));
    return self_.IsSafe() ? text.AsSafe() : text;
  }

 private:
  // A specification has fields of its own, and the specifications of those too, as in Python.
  absl::StatusOr<std::string> Fill(std::string_view text, int levels) {
    if (levels < 0) return Error("format: fields are nested too deep");
    std::string out;
    while (!text.empty()) {
      const char c = text[0];
      if ((c == '{' || c == '}') && text.substr(1, 1) == text.substr(0, 1)) {
        out += c;
        text.remove_prefix(2);
      } else if (c == '}') {
        return Error("format: a single '}'");
      } else if (c == '{') {
        JINJA_ASSIGN_OR_RETURN(std::string field, TakeField(text));
        JINJA_ASSIGN_OR_RETURN(std::string filled, FillField(field, levels));
        out += filled;
      } else {
        const size_t end = std::min(text.find_first_of("{}"), text.size());
        out += text.substr(0, end);
        text.remove_prefix(end);
      }
      JINJA_RETURN_IF_ERROR(budget_.Charge(1));
      if (out.size() > kMaxTextBytes) return Error("a string is over 64 MiB");
    }
    return out;
  }

  static absl::StatusOr<std::string> TakeField(std::string_view& text) {
    int open = 0;
    for (size_t i = 0; i < text.size(); ++i) {
      if (text[i] == '{') ++open;
      if (text[i] != '}' || --open > 0) continue;
      std::string field(text.substr(1, i - 1));
      text.remove_prefix(i + 1);
      return field;
    }
    return Error("format: a single '{'");
  }

  absl::StatusOr<std::string> FillField(std::string_view field, int levels) {
    const size_t end = std::min(field.find_first_of("!:"), field.size());
    JINJA_ASSIGN_OR_RETURN(Value value, Find(field.substr(0, end)));
    field.remove_prefix(end);
    if (field.substr(0, 1) == "!") {
      const std::string_view conversion = field.substr(1, 1);
      if (conversion != "r" && conversion != "s") return Error("format: conversion not known");
      JINJA_ASSIGN_OR_RETURN(std::string text,
                             conversion == "r" ? ToRepr(value, budget_) : ToText(value, budget_));
      value = Value::OfText(std::move(text));
      field.remove_prefix(2);
      if (!field.empty() && field[0] != ':') return Error("format: expected ':'");
    }
    if (!field.empty()) field.remove_prefix(1);
    JINJA_ASSIGN_OR_RETURN(std::string spec, Fill(field, levels - 1));
    if (self_.IsSafe()) {
      if (!spec.empty() && value.IsSafe()) return Error("format: safe text takes no format");
      JINJA_ASSIGN_OR_RETURN(std::string text, FormatValue(value, spec, budget_));
      JINJA_ASSIGN_OR_RETURN(Value escaped, value.IsSafe()
                                                ? absl::StatusOr<Value>(value)
                                                : Escape(Value::OfText(std::move(text)), budget_));
      return *escaped.AsText();
    }
    return FormatValue(value, spec, budget_);
  }

  absl::StatusOr<Value> Find(std::string_view path) {
    size_t end = std::min(path.find_first_of(".["), path.size());
    JINJA_ASSIGN_OR_RETURN(Value value, FindArgument(path.substr(0, end)));
    path.remove_prefix(end);
    while (!path.empty()) {
      const bool item = path[0] == '[';
      end = item ? path.find(']') : path.find_first_of(".[", 1);
      if (item && end == std::string_view::npos) return Error("format: ']' is missing");
      end = std::min(end, path.size());
      const std::string name(path.substr(1, end - 1));
      if (name.empty()) return Error("format: an attribute has no name");
      int64_t index = 0;
      const bool number = item && name.find_first_not_of("0123456789") == std::string::npos &&
                          absl::SimpleAtoi(name, &index);
      JINJA_ASSIGN_OR_RETURN(value, number ? GetItem(value, Value::OfInt(index), budget_)
                                    : item ? GetItem(value, Value::OfText(name), budget_)
                                           : GetAttribute(value, name, budget_));
      path.remove_prefix(item ? end + 1 : end);
    }
    return value;
  }

  absl::StatusOr<Value> FindArgument(std::string_view name) {
    int64_t index = 0;
    if (name.empty() || name.find_first_not_of("0123456789") == std::string_view::npos) {
      const bool automatic = name.empty();
      if (automatic_ && *automatic_ != automatic) {
        return Error("format: fields with and without numbers are mixed");
      }
      automatic_ = automatic;
      if (automatic) {
        index = next_++;
      } else if (!absl::SimpleAtoi(View(name), &index)) {
        return Error("format: no such argument");
      }
      if (index >= static_cast<int64_t>(arguments_.positional.size())) {
        return Error("format: argument ", index, " is missing");
      }
      return arguments_.positional[static_cast<size_t>(index)];
    }
    for (const auto& [known, value] : arguments_.named) {
      if (known == name) return value;
    }
    return Error("format: argument '", View(name), "' is missing");
  }

  const Value& self_;
  const Arguments& arguments_;
  Budget& budget_;
  std::optional<bool> automatic_;  // whether fields are numbered by their order
  int64_t next_ = 0;
};

/// The values of %: a tuple in turn, or one value; a dict also by name.
class PercentValues {
 public:
  explicit PercentValues(const Value& values) : values_(values) {
    const Sequence* tuple = values.AsSequence();
    if (tuple != nullptr && tuple->kind == Sequence::Kind::kTuple) tuple_ = tuple;
  }

  absl::StatusOr<Value> Next() {
    if (next_ >= size()) return Error("'%': not enough values");
    ++next_;
    return tuple_ == nullptr ? values_ : tuple_->items[next_ - 1];
  }

  absl::StatusOr<Value> Named(std::string_view name, Budget& budget) {
    if (!values_.AsDict()) return Error("'%': names need a dict");
    by_name_ = true;
    JINJA_ASSIGN_OR_RETURN(const Value* found,
                           FindKey(*values_.AsDict(), Value::OfText(std::string(name)), budget));
    if (found == nullptr) return Error("'%': no value '", View(name), "'");
    return *found;
  }

  // A dict or a list that nothing asked for is let pass, as in Python.
  bool AllTaken() const {
    const Sequence* list = values_.AsSequence();
    const bool indexed = list != nullptr && (list->kind == Sequence::Kind::kList ||
                                             list->kind == Sequence::Kind::kRange);
    const bool lenient = values_.AsDict() || values_.IsUndefined() || indexed;
    return by_name_ || next_ == size() || (lenient && next_ == 0);
  }

 private:
  size_t size() const { return tuple_ == nullptr ? 1 : tuple_->items.size(); }
  const Value& values_;
  const Sequence* tuple_ = nullptr;
  size_t next_ = 0;
  bool by_name_ = false;
};

absl::StatusOr<std::string> ConvertPercent(Spec spec, bool left, bool zeros, const Value& value,
                                           Budget& budget) {
  if (left) spec.align = '<';
  if (spec.type == 's' || spec.type == 'r') {
    JINJA_ASSIGN_OR_RETURN(std::string text,
                           spec.type == 'r' ? ToRepr(value, budget) : ToText(value, budget));
    if (!left) spec.align = '>';
    spec.type = 's';
    return FormatString(spec, text);
  }
  if (zeros && !left) {
    spec.fill.assign(1, '0');
    spec.align = '=';
  }
  if (spec.type == 'i' || spec.type == 'u') spec.type = 'd';
  if (spec.type == 'c' && value.AsText() && CountCharacters(*value.AsText()) == 1) {
    return Pad(spec, "", *value.AsText(), '>');
  }
  if (!value.AsNumber()) return Error("'%': a number is needed");
  if (std::string_view("eEfFgG").find(spec.type) != std::string_view::npos) {
    return FormatFloat(spec, *value.AsNumber());
  }
  if (value.AsInt()) return FormatInteger(spec, *value.AsInt());
  if (spec.type != 'd' || !(std::abs(*value.AsNumber()) < 9.2e18)) {
    return Error("'%': an integer is needed");
  }
  return FormatInteger(spec, static_cast<int64_t>(*value.AsNumber()));
}

// `text` is at what follows a '%'; moves behind the conversion.
absl::StatusOr<std::string> TakePercent(std::string_view& text, bool safe, PercentValues& values,
                                        Budget& budget) {
  std::optional<std::string_view> name;
  if (text.substr(0, 1) == "(") {
    const size_t end = text.find(')');
    if (end == std::string_view::npos) return Error("'%': ')' is missing");
    name = text.substr(1, end - 1);
    text.remove_prefix(end + 1);
  }
  Spec spec;
  bool left = false;
  bool zeros = false;
  char flag = '\0';
  while (TakeAny(text, "-0+ #", flag)) {
    left = left || flag == '-';
    zeros = zeros || flag == '0';
    spec.alternate = spec.alternate || flag == '#';
    if (flag == '+' || (flag == ' ' && spec.sign == '-')) spec.sign = flag;
  }
  JINJA_ASSIGN_OR_RETURN(spec.width, TakeNumber(text, kMaxFormatWidth));
  if (text.substr(0, 1) == ".") {
    text.remove_prefix(1);
    JINJA_ASSIGN_OR_RETURN(spec.precision, TakeNumber(text, kMaxFormatPrecision));
  }
  JINJA_RETURN_IF_ERROR(budget.ChargeBytes(static_cast<uint64_t>(spec.width)));
  if (!TakeAny(text, "%srdiuoxXeEfFgGc", spec.type)) return Error("'%': conversion not known");
  if (spec.type == '%') return std::string("%");
  JINJA_ASSIGN_OR_RETURN(Value value, name ? values.Named(*name, budget) : values.Next());
  if (safe && (spec.type == 's' || spec.type == 'r')) {
    JINJA_ASSIGN_OR_RETURN(value, Escape(value, budget));
  }
  return ConvertPercent(spec, left, zeros, value, budget);
}

}  // namespace

absl::StatusOr<Value> FormatText(const Value& self, const Arguments& arguments, Budget& budget) {
  return Formatter(self, arguments, budget).Run();
}

absl::StatusOr<Value> FormatPercent(const Value& self, const Value& values, Budget& budget) {
  std::string_view text = *self.AsText();
  PercentValues source(values);
  std::string out;
  while (!text.empty()) {
    const size_t end = text.find('%');
    out += text.substr(0, end);
    if (end == std::string_view::npos) break;
    text.remove_prefix(end + 1);
    JINJA_ASSIGN_OR_RETURN(std::string filled, TakePercent(text, self.IsSafe(), source, budget));
    out += filled;
    JINJA_RETURN_IF_ERROR(budget.ChargeBytes(filled.size()));
    if (out.size() > kMaxTextBytes) return Error("a string is over 64 MiB");
  }
  if (!source.AllTaken()) return Error("'%': not all values are taken");
  JINJA_ASSIGN_OR_RETURN(Value result, MakeText(std::move(out), budget));
  return self.IsSafe() ? result.AsSafe() : result;
}

}  // namespace nsa::engine::jinja
