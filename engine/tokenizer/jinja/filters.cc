#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "engine/text.h"
#include "engine/tokenizer/jinja/builtins.h"
#include "engine/tokenizer/jinja/python_text.h"
#include "engine/tokenizer/jinja/status.h"

namespace nsa::engine::jinja {
namespace {

using Result = absl::StatusOr<Value>;

// For the filters that take any value and work on its text.
template <std::string (*Convert)(std::string_view)>
Result TextFilter(const Value& input, const Arguments& arguments, Budget& budget) {
  JINJA_RETURN_IF_ERROR(Bind(arguments, {}).status());
  JINJA_ASSIGN_OR_RETURN(std::string text, ToText(input, budget));
  return MakeText(Convert(text), budget);
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
  return MakeText(std::string(Strip(text, characters, Side::kBoth)), budget);
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

// item.a.0.b, for the filters that take a path.
Result GetPath(const Value& item, const Value& path, Budget& budget) {
  if (const auto index = path.AsInt()) return GetItem(item, path, budget);
  if (!path.AsText()) return Error("an attribute must be a name or a number");
  Value value = item;
  for (absl::string_view part : absl::StrSplit(*path.AsText(), '.')) {
    int64_t index = 0;
    const bool digits = !part.empty() && part.find_first_not_of("0123456789") == part.npos;
    const bool number = digits && absl::SimpleAtoi(part, &index);
    const Value key = number ? Value::OfInt(index) : Value::OfText(std::string(part));
    JINJA_ASSIGN_OR_RETURN(value, GetItem(value, key, budget));
  }
  return value;
}

Result JoinFilter(const Value& input, const Arguments& arguments, Budget& budget) {
  JINJA_ASSIGN_OR_RETURN(auto bound, Bind(arguments, {"d", "attribute"}));
  std::string separator;
  if (bound[0] != nullptr) {
    JINJA_ASSIGN_OR_RETURN(separator, ToText(*bound[0], budget));
  }
  JINJA_ASSIGN_OR_RETURN(std::vector<Value> items, Iterate(input, budget));
  std::string out;
  for (size_t i = 0; i < items.size(); ++i) {
    if (bound[1] != nullptr && !bound[1]->IsNone()) {
      JINJA_ASSIGN_OR_RETURN(items[i], GetPath(items[i], *bound[1], budget));
    }
    JINJA_ASSIGN_OR_RETURN(std::string text, ToText(items[i], budget));
    JINJA_RETURN_IF_ERROR(budget.ChargeBytes(separator.size()));
    if (i > 0) out += separator;
    out += text;
    if (out.size() > kMaxTextBytes) return Error("a string is over 64 MiB");
  }
  return MakeText(std::move(out), budget);
}

Result FirstFilter(const Value& input, const Arguments& arguments, Budget& budget) {
  JINJA_RETURN_IF_ERROR(Bind(arguments, {}).status());
  JINJA_ASSIGN_OR_RETURN(std::vector<Value> items, Iterate(input, budget));
  if (items.empty()) return Value::OfUndefined("No first item, sequence was empty.");
  return items.front();
}

bool IsGenerator(const Value& value) {
  return value.AsSequence() && value.AsSequence()->kind == Sequence::Kind::kGenerator;
}

Result LastFilter(const Value& input, const Arguments& arguments, Budget& budget) {
  JINJA_RETURN_IF_ERROR(Bind(arguments, {}).status());
  if (IsGenerator(input)) return Error("last needs a list; put |list in front of it");
  JINJA_ASSIGN_OR_RETURN(std::vector<Value> items, Iterate(input, budget));
  if (items.empty()) return Value::OfUndefined("No last item, sequence was empty.");
  return items.back();
}

Result ListFilter(const Value& input, const Arguments& arguments, Budget& budget) {
  JINJA_RETURN_IF_ERROR(Bind(arguments, {}).status());
  JINJA_ASSIGN_OR_RETURN(std::vector<Value> items, Iterate(input, budget));
  return MakeSequence(Sequence::Kind::kList, std::move(items), budget);
}

Result ReverseFilter(const Value& input, const Arguments& arguments, Budget& budget) {
  JINJA_RETURN_IF_ERROR(Bind(arguments, {}).status());
  if (input.AsText()) {
    return GetSlice(input, Value(), Value(), Value::OfInt(-1), budget);
  }
  JINJA_ASSIGN_OR_RETURN(std::vector<Value> items, Iterate(input, budget));
  std::reverse(items.begin(), items.end());
  return MakeSequence(Sequence::Kind::kGenerator, std::move(items), budget);
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

Result ToJsonFilter(const Value& input, const Arguments& arguments, Budget& budget) {
  JINJA_ASSIGN_OR_RETURN(auto bound, Bind(arguments, {"ensure_ascii", "indent"}));
  if (bound[0] != nullptr && Truth(*bound[0])) {
    return Error("tojson: ensure_ascii is not supported");
  }
  int indent = -1;
  if (bound[1] != nullptr && !bound[1]->IsNone()) {
    const std::optional<int64_t> wanted = bound[1]->AsInt();
    if (!wanted || *wanted < 0 || *wanted > 16) return Error("tojson: indent must be 0 to 16");
    indent = static_cast<int>(*wanted);
  }
  JINJA_ASSIGN_OR_RETURN(std::string text, ToJson(input, indent, budget));
  return MakeText(std::move(text), budget);
}

Result StringFilter(const Value& input, const Arguments& arguments, Budget& budget) {
  JINJA_RETURN_IF_ERROR(Bind(arguments, {}).status());
  if (input.AsText()) return input;
  JINJA_ASSIGN_OR_RETURN(std::string text, ToText(input, budget));
  return MakeText(std::move(text), budget);
}

// Nothing is escaped here, so that nothing needs a mark that it is safe.
Result SafeFilter(const Value& input, const Arguments& arguments, Budget& budget) {
  return StringFilter(input, arguments, budget);
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

std::optional<int64_t> ToInt(const Value& input) {
  if (const auto integer = input.AsInt()) return integer;
  std::optional<double> number = input.AsNumber();
  if (const std::string* text = input.AsText()) {
    int64_t integer = 0;
    if (absl::SimpleAtoi(Strip(*text, std::nullopt, Side::kBoth).empty()
                             ? absl::string_view()
                             : View(Strip(*text, std::nullopt, Side::kBoth)),
                         &integer)) {
      return integer;
    }
    number = ParseNumber(*text);
  }
  if (!number || !(std::abs(*number) < 9.2e18)) return std::nullopt;
  return static_cast<int64_t>(*number);
}

Result IntFilter(const Value& input, const Arguments& arguments, Budget& budget) {
  JINJA_ASSIGN_OR_RETURN(auto bound, Bind(arguments, {"default", "base"}));
  if (bound[1] != nullptr && bound[1]->AsInt() != 10) return Error("int: only base 10");
  if (input.IsUndefined()) return Error(*input.As<Undefined>()->reason);
  if (input.AsText()) JINJA_RETURN_IF_ERROR(budget.ChargeBytes(input.AsText()->size()));
  if (const auto integer = ToInt(input)) return Value::OfInt(*integer);
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

Result ItemsFilter(const Value& input, const Arguments& arguments, Budget& budget) {
  JINJA_RETURN_IF_ERROR(Bind(arguments, {}).status());
  std::vector<Value> items;
  if (!input.IsUndefined()) {
    if (!input.AsDict()) return Error("items needs a dict");
    JINJA_ASSIGN_OR_RETURN(Value view, CallMethod(input, "items", {}, budget));
    items = view.AsSequence()->items;
  }
  return MakeSequence(Sequence::Kind::kGenerator, std::move(items), budget);
}

Result MapFilter(const Value& input, const Arguments& arguments, Budget& budget) {
  JINJA_ASSIGN_OR_RETURN(std::vector<Value> items, Iterate(input, budget));
  if (arguments.positional.empty()) {
    JINJA_ASSIGN_OR_RETURN(auto bound, Bind(arguments, {"attribute", "default"}));
    if (bound[0] == nullptr) return Error("map needs a filter or an attribute");
    for (Value& item : items) {
      JINJA_ASSIGN_OR_RETURN(item, GetPath(item, *bound[0], budget));
      if (item.IsUndefined() && bound[1] != nullptr) item = *bound[1];
    }
  } else {
    const std::string* name = arguments.positional[0].AsText();
    const FilterFunction filter = name == nullptr ? nullptr : FindFilter(*name);
    if (filter == nullptr) return Error("map: no such filter");
    const Arguments rest{{arguments.positional.begin() + 1, arguments.positional.end()},
                         arguments.named};
    for (Value& item : items) {
      JINJA_ASSIGN_OR_RETURN(item, filter(item, rest, budget));
    }
  }
  return MakeSequence(Sequence::Kind::kGenerator, std::move(items), budget);
}

// select, reject, selectattr and rejectattr: the items whose test has the value `Wanted`.
template <bool Wanted, bool ByAttribute>
Result SelectFilter(const Value& input, const Arguments& arguments, Budget& budget) {
  JINJA_ASSIGN_OR_RETURN(std::vector<Value> items, Iterate(input, budget));
  const std::vector<Value>& given = arguments.positional;
  const size_t at = ByAttribute ? 1 : 0;
  if (given.size() < at) return Error("selectattr and rejectattr need an attribute");
  TestFunction test = nullptr;
  Arguments rest;
  if (given.size() > at) {
    const std::string* name = given[at].AsText();
    test = name == nullptr ? nullptr : FindTest(*name);
    if (test == nullptr) return Error("select or reject: no such test");
    rest.positional.assign(given.begin() + static_cast<std::ptrdiff_t>(at) + 1, given.end());
    rest.named = arguments.named;
  }
  std::vector<Value> kept;
  for (const Value& item : items) {
    Value tested = item;
    if (ByAttribute) {
      JINJA_ASSIGN_OR_RETURN(tested, GetPath(item, given[0], budget));
    }
    bool passes = Truth(tested);
    if (test != nullptr) {
      JINJA_ASSIGN_OR_RETURN(passes, test(tested, rest, budget));
    }
    if (passes == Wanted) kept.push_back(item);
  }
  return MakeSequence(Sequence::Kind::kGenerator, std::move(kept), budget);
}

constexpr std::pair<std::string_view, FilterFunction> kFilters[] = {
    {"abs", AbsFilter},
    {"capitalize", TextFilter<Capitalize>},
    {"count", LengthFilter},
    {"d", DefaultFilter},
    {"default", DefaultFilter},
    {"first", FirstFilter},
    {"float", FloatFilter},
    {"int", IntFilter},
    {"items", ItemsFilter},
    {"join", JoinFilter},
    {"last", LastFilter},
    {"length", LengthFilter},
    {"list", ListFilter},
    {"lower", TextFilter<Lower>},
    {"map", MapFilter},
    {"reject", SelectFilter<false, false>},
    {"rejectattr", SelectFilter<false, true>},
    {"replace", ReplaceFilter},
    {"reverse", ReverseFilter},
    {"safe", SafeFilter},
    {"select", SelectFilter<true, false>},
    {"selectattr", SelectFilter<true, true>},
    {"string", StringFilter},
    {"title", TextFilter<TitleWords>},
    {"tojson", ToJsonFilter},
    {"trim", TrimFilter},
    {"upper", TextFilter<Upper>},
};

}  // namespace

FilterFunction FindFilter(std::string_view name) {
  for (const auto& [known, function] : kFilters) {
    if (known == name) return function;
  }
  return nullptr;
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
