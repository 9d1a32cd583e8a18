// Tests and global functions.

#include "engine/tokenizer/jinja/builtins.h"

#include <array>
#include <ctime>

#include "engine/text.h"
#include "engine/tokenizer/jinja/character_class.h"
#include "engine/tokenizer/jinja/status.h"

namespace nsa::engine::jinja {
namespace {

constexpr size_t kMaxRange = 100'000;  // as jinja2's sandbox has it

template <bool (*Holds)(const Value&)>
absl::StatusOr<bool> Plain(const Value& value, const Arguments& arguments, Budget&) {
  JINJA_RETURN_IF_ERROR(Bind(arguments, {}).status());
  return Holds(value);
}

bool IsDefined(const Value& value) { return !value.IsUndefined(); }
bool IsNotDefined(const Value& value) { return value.IsUndefined(); }
bool IsNone(const Value& value) { return value.IsNone(); }
bool IsText(const Value& value) { return value.AsText() != nullptr; }
bool IsMapping(const Value& value) { return value.AsDict() != nullptr; }
bool IsIterable(const Value& value) {
  return value.AsText() || value.AsDict() || value.AsSequence() || value.IsUndefined() ||
         value.As<std::shared_ptr<LoopObject>>();
}
bool IsSequence(const Value& value) {
  const Sequence* sequence = value.AsSequence();
  const bool indexed = sequence && sequence->kind != Sequence::Kind::kView &&
                       sequence->kind != Sequence::Kind::kGenerator;
  return indexed || value.AsText() || value.AsDict() || value.IsUndefined();
}
bool IsNumber(const Value& value) { return value.AsNumber().has_value(); }
bool IsInteger(const Value& value) { return value.As<int64_t>() != nullptr; }
bool IsFloat(const Value& value) { return value.As<double>() != nullptr; }
bool IsBoolean(const Value& value) { return value.As<bool>() != nullptr; }
bool IsTrue(const Value& value) { return value.As<bool>() && *value.As<bool>(); }
bool IsFalse(const Value& value) { return value.As<bool>() && !*value.As<bool>(); }
bool IsEscaped(const Value& value) { return value.IsSafe(); }
bool IsCallable(const Value& value) { return value.AsFunction() != nullptr || value.IsUndefined(); }

absl::StatusOr<const Value*> Operand(const Arguments& arguments) {
  if (arguments.positional.size() == 1 && arguments.named.empty()) {
    return &arguments.positional[0];
  }
  return Error("the test takes one argument");
}

template <bool Negated>
absl::StatusOr<bool> EqualTest(const Value& value, const Arguments& arguments, Budget& budget) {
  JINJA_ASSIGN_OR_RETURN(const Value* other, Operand(arguments));
  JINJA_ASSIGN_OR_RETURN(bool equal, Equal(value, *other, budget));
  return equal != Negated;
}

// a < b, or with the operands swapped b < a.
template <bool Swapped>
absl::StatusOr<bool> LessTest(const Value& value, const Arguments& arguments, Budget& budget) {
  JINJA_ASSIGN_OR_RETURN(const Value* other, Operand(arguments));
  return Swapped ? Less(*other, value, budget) : Less(value, *other, budget);
}

template <bool Swapped>
absl::StatusOr<bool> LessOrEqualTest(const Value& value, const Arguments& arguments,
                                     Budget& budget) {
  JINJA_ASSIGN_OR_RETURN(bool less, LessTest<Swapped>(value, arguments, budget));
  if (less) return true;
  return EqualTest<false>(value, arguments, budget);
}

absl::StatusOr<bool> InTest(const Value& value, const Arguments& arguments, Budget& budget) {
  JINJA_ASSIGN_OR_RETURN(const Value* whole, Operand(arguments));
  return Contains(*whole, value, budget);
}

// value % by == rest
absl::StatusOr<bool> Leaves(const Value& value, const Value& by, int64_t rest, Budget& budget) {
  JINJA_ASSIGN_OR_RETURN(Value left, Modulo(value, by, budget));
  return Equal(left, Value::OfInt(rest), budget);
}

template <int64_t Rest>
absl::StatusOr<bool> ParityTest(const Value& value, const Arguments& arguments, Budget& budget) {
  JINJA_RETURN_IF_ERROR(Bind(arguments, {}).status());
  return Leaves(value, Value::OfInt(2), Rest, budget);
}

absl::StatusOr<bool> DivisibleTest(const Value& value, const Arguments& arguments, Budget& budget) {
  JINJA_ASSIGN_OR_RETURN(const Value* by, Operand(arguments));
  return Leaves(value, *by, 0, budget);
}

template <bool (*Holds)(std::string_view)>
absl::StatusOr<bool> CaseTest(const Value& value, const Arguments& arguments, Budget& budget) {
  JINJA_RETURN_IF_ERROR(Bind(arguments, {}).status());
  JINJA_ASSIGN_OR_RETURN(std::string text, ToText(value, budget));
  return Holds(text);
}

// Python's `is`, where it does not hang on what an implementation keeps once only.
absl::StatusOr<bool> SameTest(const Value& value, const Arguments& arguments, Budget& budget) {
  JINJA_ASSIGN_OR_RETURN(const Value* other, Operand(arguments));
  if (TypeName(value) != TypeName(*other)) return false;
  if (value.AsDict()) return value.AsDict() == other->AsDict();
  if (value.AsSequence()) return value.AsSequence() == other->AsSequence();
  return Equal(value, *other, budget);
}

bool HasFilter(std::string_view name) { return FindFilter(name) != nullptr; }
bool HasTest(std::string_view name) { return FindTest(name) != nullptr; }

template <bool (*Known)(std::string_view)>
absl::StatusOr<bool> NameTest(const Value& value, const Arguments& arguments, Budget&) {
  JINJA_RETURN_IF_ERROR(Bind(arguments, {}).status());
  return value.AsText() && Known(*value.AsText());
}

constexpr std::pair<std::string_view, TestFunction> kTests[] = {
    {"boolean", Plain<IsBoolean>},
    {"callable", Plain<IsCallable>},
    {"defined", Plain<IsDefined>},
    {"divisibleby", DivisibleTest},
    {"eq", EqualTest<false>},
    {"equalto", EqualTest<false>},
    {"escaped", Plain<IsEscaped>},
    {"even", ParityTest<0>},
    {"false", Plain<IsFalse>},
    {"filter", NameTest<HasFilter>},
    {"float", Plain<IsFloat>},
    {"ge", LessOrEqualTest<true>},
    {"greaterthan", LessTest<true>},
    {"gt", LessTest<true>},
    {"in", InTest},
    {"integer", Plain<IsInteger>},
    {"iterable", Plain<IsIterable>},
    {"le", LessOrEqualTest<false>},
    {"lessthan", LessTest<false>},
    {"lower", CaseTest<IsLower>},
    {"lt", LessTest<false>},
    {"mapping", Plain<IsMapping>},
    {"ne", EqualTest<true>},
    {"none", Plain<IsNone>},
    {"number", Plain<IsNumber>},
    {"odd", ParityTest<1>},
    {"sameas", SameTest},
    {"sequence", Plain<IsSequence>},
    {"string", Plain<IsText>},
    {"test", NameTest<HasTest>},
    {"true", Plain<IsTrue>},
    {"undefined", Plain<IsNotDefined>},
    {"upper", CaseTest<IsUpper>},
    // The same by their signs, for selectattr and its like.
    {"==", EqualTest<false>},
    {"!=", EqualTest<true>},
    {"<", LessTest<false>},
    {"<=", LessOrEqualTest<false>},
    {">", LessTest<true>},
    {">=", LessOrEqualTest<true>},
};

absl::StatusOr<Value> Range(const Arguments& arguments, Budget& budget) {
  const std::vector<Value>& given = arguments.positional;
  if (given.empty() || given.size() > 3 || !arguments.named.empty()) {
    return Error("range takes one to three integers");
  }
  for (const Value& value : given) {
    if (!value.AsInt()) return Error("range takes integers");
  }
  const int64_t start = given.size() > 1 ? *given[0].AsInt() : 0;
  const int64_t stop = *given[given.size() > 1 ? 1 : 0].AsInt();
  const int64_t step = given.size() > 2 ? *given[2].AsInt() : 1;
  if (step == 0) return Error("range: the step cannot be zero");
  std::string label = absl::StrCat("range(", start, ", ", stop);
  if (step != 1) absl::StrAppend(&label, ", ", step);
  label += ')';
  std::vector<Value> items;
  // In 128 bits, for the next value may leave the 64.
  for (__int128 at = start; step > 0 ? at < stop : at > stop; at += step) {
    if (items.size() == kMaxRange) return Error("range: more than ", kMaxRange, " values");
    items.push_back(Value::OfInt(static_cast<int64_t>(at)));
  }
  return MakeLabelled(Sequence::Kind::kRange, std::move(label), std::move(items), budget);
}

// Python's dict(): of a dict or of pairs, and of named values.
absl::StatusOr<Value> DictFunction(const Arguments& arguments, Budget& budget) {
  std::vector<std::pair<Value, Value>> items;
  if (arguments.positional.size() > 1) return Error("dict takes one dict at most");
  if (!arguments.positional.empty() && arguments.positional[0].AsDict()) {
    items = arguments.positional[0].AsDict()->items;
  } else if (!arguments.positional.empty()) {
    JINJA_ASSIGN_OR_RETURN(std::vector<Value> pairs, Iterate(arguments.positional[0], budget));
    for (const Value& pair : pairs) {
      JINJA_ASSIGN_OR_RETURN(std::vector<Value> parts, Iterate(pair, budget));
      if (parts.size() != 2) return Error("dict takes a dict, pairs or named values");
      items.emplace_back(std::move(parts[0]), std::move(parts[1]));
    }
  }
  for (const auto& [name, value] : arguments.named) items.emplace_back(Value::OfText(name), value);
  return MakeDict(std::move(items), budget);
}

absl::StatusOr<Value> MakeNamespace(const Arguments& arguments, Budget& budget) {
  JINJA_ASSIGN_OR_RETURN(Value attributes, DictFunction(arguments, budget));
  auto space = std::make_shared<Namespace>();
  for (const auto& [key, value] : attributes.AsDict()->items) {
    if (!key.AsText()) return Error("namespace: a key is not a string");
    JINJA_RETURN_IF_ERROR(space->Set(*key.AsText(), value));
  }
  return Value(Value::Variant(std::move(space)));
}

absl::StatusOr<Value> TimeNow(const Arguments& arguments, Budget& budget) {
  JINJA_ASSIGN_OR_RETURN(auto bound, Bind(arguments, {"format"}));
  if (bound[0] == nullptr || !bound[0]->AsText()) return Error("strftime_now needs a format");
  const std::string& format = *bound[0]->AsText();
  if (format.empty()) return Value::OfText("");
  const std::time_t now = std::time(nullptr);
  std::tm local{};
  localtime_r(&now, &local);
  std::array<char, 1024> buffer;
  const size_t size = std::strftime(buffer.data(), buffer.size(), format.c_str(), &local);
  if (size == 0) return Error("strftime_now: the result is empty or over 1023 bytes");
  return MakeText(std::string(buffer.data(), size), budget);
}

}  // namespace

TestFunction FindTest(std::string_view name) {
  for (const auto& [known, function] : kTests) {
    if (known == name) return function;
  }
  return nullptr;
}

std::vector<std::string_view> GlobalFunctions() {
  return {"raise_exception", "range", "namespace", "dict", "strftime_now"};
}

absl::StatusOr<Value> CallGlobal(std::string_view name, const Arguments& arguments,
                                 Budget& budget) {
  if (name == "range") return Range(arguments, budget);
  if (name == "namespace") return MakeNamespace(arguments, budget);
  if (name == "dict") return DictFunction(arguments, budget);
  if (name == "strftime_now") return TimeNow(arguments, budget);
  JINJA_ASSIGN_OR_RETURN(auto bound, Bind(arguments, {"message"}));
  if (bound[0] == nullptr) return Error("raise_exception needs a message");
  JINJA_ASSIGN_OR_RETURN(std::string message, ToText(*bound[0], budget));
  return Error("the template refuses the messages: ", message);
}

}  // namespace nsa::engine::jinja
