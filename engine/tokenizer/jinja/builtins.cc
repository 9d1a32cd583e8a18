// Tests, global functions and JSON.

#include "engine/tokenizer/jinja/builtins.h"

#include <array>
#include <cmath>
#include <ctime>

#include "engine/text.h"
#include "engine/tokenizer/jinja/python_text.h"
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

absl::StatusOr<bool> Divisible(const Value& value, const Value& by) {
  const auto a = value.AsInt();
  const auto b = by.AsInt();
  if (!a || !b || *b == 0) return Error("the test needs integers, the divisor not zero");
  return *b == -1 || *a % *b == 0;
}

template <bool Wanted>
absl::StatusOr<bool> EvenTest(const Value& value, const Arguments& arguments, Budget&) {
  JINJA_RETURN_IF_ERROR(Bind(arguments, {}).status());
  JINJA_ASSIGN_OR_RETURN(bool even, Divisible(value, Value::OfInt(2)));
  return even == Wanted;
}

absl::StatusOr<bool> DivisibleTest(const Value& value, const Arguments& arguments, Budget&) {
  JINJA_ASSIGN_OR_RETURN(const Value* by, Operand(arguments));
  return Divisible(value, *by);
}

constexpr std::pair<std::string_view, TestFunction> kTests[] = {
    {"boolean", Plain<IsBoolean>},
    {"callable", Plain<IsCallable>},
    {"defined", Plain<IsDefined>},
    {"divisibleby", DivisibleTest},
    {"eq", EqualTest<false>},
    {"equalto", EqualTest<false>},
    {"even", EvenTest<true>},
    {"false", Plain<IsFalse>},
    {"float", Plain<IsFloat>},
    {"ge", LessOrEqualTest<true>},
    {"greaterthan", LessTest<true>},
    {"gt", LessTest<true>},
    {"in", InTest},
    {"integer", Plain<IsInteger>},
    {"iterable", Plain<IsIterable>},
    {"le", LessOrEqualTest<false>},
    {"lessthan", LessTest<false>},
    {"lt", LessTest<false>},
    {"mapping", Plain<IsMapping>},
    {"ne", EqualTest<true>},
    {"none", Plain<IsNone>},
    {"number", Plain<IsNumber>},
    {"odd", EvenTest<false>},
    {"sequence", Plain<IsSequence>},
    {"string", Plain<IsText>},
    {"true", Plain<IsTrue>},
    {"undefined", Plain<IsNotDefined>},
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
  std::vector<Value> items;
  // In 128 bits, for the next value may leave the 64.
  for (__int128 at = start; step > 0 ? at < stop : at > stop; at += step) {
    if (items.size() == kMaxRange) return Error("range: more than ", kMaxRange, " values");
    items.push_back(Value::OfInt(static_cast<int64_t>(at)));
  }
  return MakeSequence(Sequence::Kind::kRange, std::move(items), budget);
}

absl::StatusOr<Value> MakeNamespace(const Arguments& arguments) {
  auto space = std::make_shared<Namespace>();
  if (arguments.positional.size() > 1) return Error("namespace takes one dict at most");
  if (!arguments.positional.empty()) {
    const Dict* dict = arguments.positional[0].AsDict();
    if (dict == nullptr) return Error("namespace takes a dict or named values");
    for (const auto& [key, value] : dict->items) {
      if (!key.AsText()) return Error("namespace: a key is not a string");
      JINJA_RETURN_IF_ERROR(space->Set(*key.AsText(), value));
    }
  }
  for (const auto& [name, value] : arguments.named) {
    JINJA_RETURN_IF_ERROR(space->Set(name, value));
  }
  return Value(Value::Variant(std::move(space)));
}

absl::StatusOr<Value> DictFunction(const Arguments& arguments, Budget& budget) {
  std::vector<std::pair<Value, Value>> items;
  if (arguments.positional.size() > 1) return Error("dict takes one dict at most");
  if (!arguments.positional.empty()) {
    const Dict* dict = arguments.positional[0].AsDict();
    if (dict == nullptr) return Error("dict takes a dict or named values");
    items = dict->items;
  }
  for (const auto& [name, value] : arguments.named) items.emplace_back(Value::OfText(name), value);
  return MakeDict(std::move(items), budget);
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

class JsonWriter {
 public:
  JsonWriter(int indent, Budget& budget) : indent_(indent), budget_(budget) {}

  absl::Status Write(const Value& value) {
    JINJA_RETURN_IF_ERROR(budget_.Charge(1));
    if (out_.size() > kMaxTextBytes) return Error("tojson: over 64 MiB");
    if (const std::string* text = value.AsText()) {
      JINJA_RETURN_IF_ERROR(budget_.ChargeBytes(text->size()));
      out_ += JsonText(*text);
    } else if (const Dict* dict = value.AsDict()) {
      return WriteDict(*dict);
    } else if (const Sequence* sequence = value.AsSequence()) {
      if (sequence->kind != Sequence::Kind::kList && sequence->kind != Sequence::Kind::kTuple) {
        return Error("tojson: a ", View(TypeName(value)), " is not JSON; use |list first");
      }
      return WriteList(*sequence);
    } else {
      return WriteScalar(value);
    }
    return absl::OkStatus();
  }

  std::string Take() { return std::move(out_); }

 private:
  absl::Status WriteScalar(const Value& value) {
    if (value.IsNone()) {
      out_ += "null";
    } else if (const bool* boolean = value.As<bool>()) {
      out_ += *boolean ? "true" : "false";
    } else if (const int64_t* integer = value.As<int64_t>()) {
      out_ += std::to_string(*integer);
    } else if (const double* number = value.As<double>()) {
      out_ += std::isnan(*number)   ? "NaN"
              : std::isinf(*number) ? (*number < 0 ? "-Infinity" : "Infinity")
                                    : FloatText(*number);
    } else {
      return Error("tojson: a ", View(TypeName(value)), " is not JSON");
    }
    return absl::OkStatus();
  }

  absl::Status Separate(bool first) {
    JINJA_RETURN_IF_ERROR(budget_.Charge(1 + static_cast<uint64_t>(depth_)));
    if (!first) out_ += indent_ < 0 ? ", " : ",";
    NewLine();
    return absl::OkStatus();
  }

  void NewLine() {
    if (indent_ < 0) return;
    out_ += '\n';
    out_.append(static_cast<size_t>(indent_) * static_cast<size_t>(depth_), ' ');
  }

  absl::Status WriteList(const Sequence& sequence) {
    out_ += '[';
    ++depth_;
    for (size_t i = 0; i < sequence.items.size(); ++i) {
      JINJA_RETURN_IF_ERROR(Separate(i == 0));
      JINJA_RETURN_IF_ERROR(Write(sequence.items[i]));
    }
    --depth_;
    if (!sequence.items.empty()) NewLine();
    out_ += ']';
    return absl::OkStatus();
  }

  absl::Status WriteDict(const Dict& dict) {
    out_ += '{';
    ++depth_;
    for (size_t i = 0; i < dict.items.size(); ++i) {
      const auto& [key, value] = dict.items[i];
      JINJA_RETURN_IF_ERROR(Separate(i == 0));
      if (key.AsText()) {
        JINJA_RETURN_IF_ERROR(Write(key));
      } else {
        out_ += '"';
        JINJA_RETURN_IF_ERROR(WriteScalar(key));
        out_ += '"';
      }
      out_ += ": ";
      JINJA_RETURN_IF_ERROR(Write(value));
    }
    --depth_;
    if (!dict.items.empty()) NewLine();
    out_ += '}';
    return absl::OkStatus();
  }

  const int indent_;
  Budget& budget_;
  int depth_ = 0;
  std::string out_;
};

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
  if (name == "namespace") return MakeNamespace(arguments);
  if (name == "dict") return DictFunction(arguments, budget);
  if (name == "strftime_now") return TimeNow(arguments, budget);
  JINJA_ASSIGN_OR_RETURN(auto bound, Bind(arguments, {"message"}));
  if (bound[0] == nullptr) return Error("raise_exception needs a message");
  JINJA_ASSIGN_OR_RETURN(std::string message, ToText(*bound[0], budget));
  return Error("the template refuses the messages: ", message);
}

absl::StatusOr<std::string> ToJson(const Value& value, int indent, Budget& budget) {
  JsonWriter writer(indent, budget);
  JINJA_RETURN_IF_ERROR(writer.Write(value));
  return writer.Take();
}

}  // namespace nsa::engine::jinja
