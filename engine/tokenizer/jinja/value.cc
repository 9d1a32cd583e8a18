#include "engine/tokenizer/jinja/value.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdlib>

#include "engine/text.h"
#include "engine/tokenizer/jinja/python_text.h"
#include "engine/tokenizer/jinja/status.h"

namespace nsa::engine::jinja {
namespace {

// Exact for every int64: x86's long double has 64 bits of fraction.
long double Wide(const Value& value) {
  if (auto integer = value.AsInt()) return static_cast<long double>(*integer);
  return static_cast<long double>(*value.AsNumber());
}

absl::Status AppendRepr(const Value& value, Budget& budget, std::string& out);

absl::Status AppendSequence(const Sequence& sequence, Budget& budget, std::string& out) {
  const bool tuple = sequence.kind == Sequence::Kind::kTuple;
  const bool view = sequence.kind == Sequence::Kind::kView;
  if (sequence.kind == Sequence::Kind::kGenerator) {
    return Error("cannot print a generator; use |list first");
  }
  out += sequence.label;
  if (sequence.kind == Sequence::Kind::kRange) {
    if (sequence.label.empty()) return Error("cannot print a part of a range; use |list first");
    return absl::OkStatus();
  }
  out += tuple ? "(" : view ? "([" : "[";
  for (size_t i = 0; i < sequence.items.size(); ++i) {
    if (i > 0) out += ", ";
    JINJA_RETURN_IF_ERROR(AppendRepr(sequence.items[i], budget, out));
  }
  if (tuple && sequence.items.size() == 1) out += ',';
  out += tuple ? ")" : view ? "])" : "]";
  return absl::OkStatus();
}

absl::Status AppendDict(const Dict& dict, Budget& budget, std::string& out) {
  out += '{';
  for (size_t i = 0; i < dict.items.size(); ++i) {
    if (i > 0) out += ", ";
    JINJA_RETURN_IF_ERROR(AppendRepr(dict.items[i].first, budget, out));
    out += ": ";
    JINJA_RETURN_IF_ERROR(AppendRepr(dict.items[i].second, budget, out));
  }
  out += '}';
  return absl::OkStatus();
}

absl::Status AppendRepr(const Value& value, Budget& budget, std::string& out) {
  JINJA_RETURN_IF_ERROR(budget.Charge(1));
  if (out.size() > kMaxTextBytes) return Error("a printed value is over 64 MiB");
  if (const std::string* text = value.AsText()) {
    JINJA_RETURN_IF_ERROR(budget.ChargeBytes(text->size()));
    out += value.IsSafe() ? absl::StrCat("Markup(", Repr(*text), ")") : Repr(*text);
  } else if (const Sequence* sequence = value.AsSequence()) {
    return AppendSequence(*sequence, budget, out);
  } else if (const Dict* dict = value.AsDict()) {
    return AppendDict(*dict, budget, out);
  } else if (value.IsUndefined()) {
    out += "Undefined";
  } else if (value.IsNone()) {
    out += "None";
  } else if (const bool* boolean = value.As<bool>()) {
    out += *boolean ? "True" : "False";
  } else if (const int64_t* integer = value.As<int64_t>()) {
    out += std::to_string(*integer);
  } else if (const double* number = value.As<double>()) {
    out += FloatText(*number);
  } else {
    return Error("cannot print a ", View(TypeName(value)));
  }
  return absl::OkStatus();
}

absl::StatusOr<bool> EqualItems(const std::vector<Value>& a, const std::vector<Value>& b,
                                Budget& budget) {
  if (a.size() != b.size()) return false;
  for (size_t i = 0; i < a.size(); ++i) {
    JINJA_ASSIGN_OR_RETURN(bool equal, Equal(a[i], b[i], budget));
    if (!equal) return false;
  }
  return true;
}

absl::StatusOr<bool> EqualDicts(const Dict& a, const Dict& b, Budget& budget) {
  if (a.items.size() != b.items.size()) return false;
  for (const auto& [key, value] : a.items) {
    JINJA_ASSIGN_OR_RETURN(const Value* other, FindKey(b, key, budget));
    if (other == nullptr) return false;
    JINJA_ASSIGN_OR_RETURN(bool equal, Equal(value, *other, budget));
    if (!equal) return false;
  }
  return true;
}

// Raises `depth` and `reaches_namespace` of a container to what `item` makes of them.
void Cover(const Value& item, int& depth, bool& reaches_namespace) {
  depth = std::max(depth, item.depth() + 1);
  reaches_namespace = reaches_namespace || item.reaches_namespace();
}

absl::Status CheckDepth(int depth) {
  if (depth <= kMaxValueDepth) return absl::OkStatus();
  return Error("values are nested deeper than ", kMaxValueDepth);
}

}  // namespace

absl::Status Budget::Charge(uint64_t steps) {
  if (steps > left_) {
    left_ = 0;
    return Error("the template takes more than ", kMaxSteps, " steps");
  }
  left_ -= steps;
  return absl::OkStatus();
}

Value Value::OfUndefined(std::string reason) {
  return Value(Variant(Undefined{std::make_shared<const std::string>(std::move(reason))}));
}

Value Value::OfText(std::string text) {
  return Value(Variant(std::make_shared<const std::string>(std::move(text))));
}

Value Value::AsSafe() const {
  const Text* text = As<Text>();
  return text == nullptr ? *this : Value(Variant(SafeText{*text}));
}

const std::string* Value::AsText() const {
  if (const SafeText* safe = As<SafeText>()) return safe->text.get();
  const Text* text = As<Text>();
  return text == nullptr ? nullptr : text->get();
}

const Sequence* Value::AsSequence() const {
  const auto* sequence = As<std::shared_ptr<const Sequence>>();
  return sequence == nullptr ? nullptr : sequence->get();
}

const Dict* Value::AsDict() const {
  const auto* dict = As<std::shared_ptr<const Dict>>();
  return dict == nullptr ? nullptr : dict->get();
}

Namespace* Value::AsNamespace() const {
  const auto* space = As<std::shared_ptr<Namespace>>();
  return space == nullptr ? nullptr : space->get();
}

const Function* Value::AsFunction() const {
  const auto* function = As<std::shared_ptr<const Function>>();
  return function == nullptr ? nullptr : function->get();
}

std::optional<int64_t> Value::AsInt() const {
  if (const bool* boolean = As<bool>()) return *boolean ? 1 : 0;
  if (const int64_t* integer = As<int64_t>()) return *integer;
  return std::nullopt;
}

std::optional<double> Value::AsNumber() const {
  if (const double* number = As<double>()) return *number;
  if (auto integer = AsInt()) return static_cast<double>(*integer);
  return std::nullopt;
}

int Value::depth() const {
  if (const Sequence* sequence = AsSequence()) return sequence->depth;
  if (const Dict* dict = AsDict()) return dict->depth;
  if (const Function* function = AsFunction()) return function->self.depth() + 1;
  if (const auto* loop = As<std::shared_ptr<LoopObject>>()) return (*loop)->depth();
  return 0;
}

bool Value::reaches_namespace() const {
  if (const Sequence* sequence = AsSequence()) return sequence->reaches_namespace;
  if (const Dict* dict = AsDict()) return dict->reaches_namespace;
  if (const Function* function = AsFunction()) return function->self.reaches_namespace();
  // A loop's items are not looked through: it counts as if it held a namespace.
  return AsNamespace() != nullptr || As<std::shared_ptr<LoopObject>>() != nullptr;
}

const Value* Namespace::Find(std::string_view name) const {
  for (const auto& [key, value] : attributes) {
    if (key == name) return &value;
  }
  return nullptr;
}

absl::Status Namespace::Set(std::string_view name, Value value) {
  if (value.reaches_namespace()) {
    return Error("a namespace or a loop cannot be kept in a namespace (attribute '", View(name),
                 "')");
  }
  if (name.substr(0, 1) == "_") {
    return Error("a namespace keeps no attribute that begins with '_' ('", View(name), "')");
  }
  for (auto& [key, old] : attributes) {
    if (key != name) continue;
    old = std::move(value);
    return absl::OkStatus();
  }
  attributes.emplace_back(name, std::move(value));
  return absl::OkStatus();
}

absl::StatusOr<Value> MakeText(std::string text, Budget& budget) {
  JINJA_RETURN_IF_ERROR(budget.ChargeBytes(text.size()));
  if (text.size() > kMaxTextBytes) return Error("a string is over 64 MiB");
  return Value::OfText(std::move(text));
}

namespace {

absl::StatusOr<Value> Finish(std::shared_ptr<Sequence> sequence, std::vector<Value> items,
                             Budget& budget) {
  JINJA_RETURN_IF_ERROR(budget.Charge(items.size() + 1));
  sequence->depth = 1;
  sequence->reaches_namespace = false;
  for (const Value& item : items) Cover(item, sequence->depth, sequence->reaches_namespace);
  JINJA_RETURN_IF_ERROR(CheckDepth(sequence->depth));
  sequence->items = std::move(items);
  return Value(Value::Variant(std::shared_ptr<const Sequence>(std::move(sequence))));
}

std::shared_ptr<Sequence> NewSequence(Sequence::Kind kind) {
  auto sequence = std::make_shared<Sequence>();
  sequence->kind = kind;
  return sequence;
}

}  // namespace

absl::StatusOr<Value> MakeSequence(Sequence::Kind kind, std::vector<Value> items, Budget& budget) {
  return Finish(NewSequence(kind), std::move(items), budget);
}

absl::StatusOr<Value> MakeLabelled(Sequence::Kind kind, std::string label, std::vector<Value> items,
                                   Budget& budget) {
  auto sequence = NewSequence(kind);
  sequence->label = std::move(label);
  return Finish(std::move(sequence), std::move(items), budget);
}

absl::StatusOr<Value> MakeGenerator(std::vector<Value> items, absl::Status failure,
                                    Budget& budget) {
  auto sequence = NewSequence(Sequence::Kind::kGenerator);
  sequence->failure = std::move(failure);
  return Finish(std::move(sequence), std::move(items), budget);
}

absl::StatusOr<Value> MakeDict(std::vector<std::pair<Value, Value>> items, Budget& budget) {
  auto dict = std::make_shared<Dict>();
  dict->depth = 1;
  dict->reaches_namespace = false;
  for (auto& [key, value] : items) {
    if (key.depth() > 0 && !key.AsSequence()) return Error("unhashable key in a dict");
    Cover(key, dict->depth, dict->reaches_namespace);
    Cover(value, dict->depth, dict->reaches_namespace);
    JINJA_ASSIGN_OR_RETURN(const Value* old, FindKey(*dict, key, budget));
    if (old != nullptr) {
      *const_cast<Value*>(old) = std::move(value);
    } else {
      dict->items.emplace_back(std::move(key), std::move(value));
    }
  }
  JINJA_RETURN_IF_ERROR(CheckDepth(dict->depth));
  return Value(Value::Variant(std::shared_ptr<const Dict>(std::move(dict))));
}

namespace {

absl::StatusOr<const Value*> Lookup(const std::vector<std::pair<Value, Value>>& items,
                                    const Value& key, Budget& budget) {
  const Sequence* sequence = key.AsSequence();
  if (key.AsDict() || (sequence && sequence->kind == Sequence::Kind::kList)) {
    return Error("unhashable type: '", View(TypeName(key)), "'");
  }
  for (const auto& [known, value] : items) {
    JINJA_ASSIGN_OR_RETURN(bool equal, Equal(known, key, budget));
    if (equal) return &value;
  }
  return nullptr;
}

}  // namespace

absl::StatusOr<const Value*> FindKey(const Dict& dict, const Value& key, Budget& budget) {
  return Lookup(dict.items, key, budget);
}

absl::StatusOr<bool> HasKey(const std::vector<std::pair<Value, Value>>& items, const Value& key,
                            Budget& budget) {
  JINJA_ASSIGN_OR_RETURN(const Value* found, Lookup(items, key, budget));
  return found != nullptr;
}

std::string_view TypeName(const Value& value) {
  if (value.IsUndefined()) return "Undefined";
  if (value.IsNone()) return "None";
  if (value.As<bool>()) return "bool";
  if (value.As<int64_t>()) return "int";
  if (value.As<double>()) return "float";
  if (value.AsText()) return "str";
  if (value.AsDict()) return "dict";
  if (value.AsNamespace()) return "namespace";
  if (value.AsFunction()) return "function";
  const Sequence* sequence = value.AsSequence();
  if (sequence == nullptr) return "loop";
  switch (sequence->kind) {
    case Sequence::Kind::kList:
      return "list";
    case Sequence::Kind::kTuple:
      return "tuple";
    case Sequence::Kind::kRange:
      return "range";
    case Sequence::Kind::kView:
      return "dict view";
    case Sequence::Kind::kGenerator:
      break;
  }
  return "generator";
}

bool Truth(const Value& value) {
  if (value.IsUndefined() || value.IsNone()) return false;
  if (auto number = value.AsNumber()) return *number != 0;
  if (const std::string* text = value.AsText()) return !text->empty();
  if (const Dict* dict = value.AsDict()) return !dict->items.empty();
  if (const Sequence* sequence = value.AsSequence()) {
    return sequence->kind == Sequence::Kind::kGenerator || !sequence->items.empty();
  }
  return true;
}

absl::StatusOr<bool> Equal(const Value& a, const Value& b, Budget& budget) {
  JINJA_RETURN_IF_ERROR(budget.Charge(1));
  if (a.AsNumber() && b.AsNumber()) return Wide(a) == Wide(b);
  if (a.AsText() && b.AsText()) {
    if (a.AsText()->size() != b.AsText()->size()) return false;
    JINJA_RETURN_IF_ERROR(budget.ChargeBytes(a.AsText()->size()));
    return *a.AsText() == *b.AsText();
  }
  if (a.AsDict() && b.AsDict()) return EqualDicts(*a.AsDict(), *b.AsDict(), budget);
  if (a.AsSequence() && b.AsSequence()) {
    if (a.AsSequence() == b.AsSequence()) return true;
    if (a.AsSequence()->kind != b.AsSequence()->kind) return false;
    if (a.AsSequence()->kind == Sequence::Kind::kGenerator) return false;
    return EqualItems(a.AsSequence()->items, b.AsSequence()->items, budget);
  }
  if (a.AsNamespace()) return a.AsNamespace() == b.AsNamespace();
  return (a.IsNone() && b.IsNone()) || (a.IsUndefined() && b.IsUndefined());
}

absl::StatusOr<bool> Less(const Value& a, const Value& b, Budget& budget) {
  JINJA_RETURN_IF_ERROR(budget.Charge(1));
  if (a.AsNumber() && b.AsNumber()) return Wide(a) < Wide(b);
  if (a.AsText() && b.AsText()) {
    JINJA_RETURN_IF_ERROR(budget.ChargeBytes(std::min(a.AsText()->size(), b.AsText()->size())));
    return *a.AsText() < *b.AsText();  // UTF-8 sorts as its code points do
  }
  const Sequence* left = a.AsSequence();
  const Sequence* right = b.AsSequence();
  const bool ordered =
      left && right && left->kind == right->kind &&
      (left->kind == Sequence::Kind::kList || left->kind == Sequence::Kind::kTuple);
  if (!ordered) {
    return Error("cannot order '", View(TypeName(a)), "' and '", View(TypeName(b)), "'");
  }
  const size_t common = std::min(left->items.size(), right->items.size());
  for (size_t i = 0; i < common; ++i) {
    JINJA_ASSIGN_OR_RETURN(bool equal, Equal(left->items[i], right->items[i], budget));
    if (!equal) return Less(left->items[i], right->items[i], budget);
  }
  return left->items.size() < right->items.size();
}

absl::StatusOr<std::vector<Value>> Iterate(const Value& value, Budget& budget) {
  std::vector<Value> items;
  if (const Sequence* sequence = value.AsSequence()) {
    if (sequence->consumed) return items;
    sequence->consumed = sequence->kind == Sequence::Kind::kGenerator;
    JINJA_RETURN_IF_ERROR(sequence->failure);
    JINJA_RETURN_IF_ERROR(budget.Charge(sequence->items.size()));
    return sequence->items;
  }
  if (const Dict* dict = value.AsDict()) {
    JINJA_RETURN_IF_ERROR(budget.Charge(dict->items.size()));
    for (const auto& item : dict->items) items.push_back(item.first);
    return items;
  }
  if (const std::string* text = value.AsText()) {
    JINJA_RETURN_IF_ERROR(budget.Charge(text->size()));
    for (std::string_view character : Characters(*text)) {
      items.push_back(Value::OfText(std::string(character)));
    }
    return items;
  }
  if (value.IsUndefined()) return items;
  return Error("'", View(TypeName(value)), "' object is not iterable");
}

absl::StatusOr<int64_t> Length(const Value& value, Budget& budget) {
  if (value.IsUndefined()) return 0;
  if (const Dict* dict = value.AsDict()) return static_cast<int64_t>(dict->items.size());
  if (const std::string* text = value.AsText()) {
    JINJA_RETURN_IF_ERROR(budget.ChargeBytes(text->size()));
    return static_cast<int64_t>(CountCharacters(*text));
  }
  const Sequence* sequence = value.AsSequence();
  if (sequence == nullptr || sequence->kind == Sequence::Kind::kGenerator) {
    return Error("object of type '", View(TypeName(value)), "' has no length");
  }
  return static_cast<int64_t>(sequence->items.size());
}

absl::StatusOr<std::string> ToText(const Value& value, Budget& budget) {
  std::string out;
  if (value.IsUndefined()) return out;
  if (const std::string* text = value.AsText()) {
    JINJA_RETURN_IF_ERROR(budget.ChargeBytes(text->size()));
    return *text;
  }
  JINJA_RETURN_IF_ERROR(AppendRepr(value, budget, out));
  return out;
}

absl::StatusOr<std::string> ToRepr(const Value& value, Budget& budget) {
  std::string out;
  JINJA_RETURN_IF_ERROR(AppendRepr(value, budget, out));
  return out;
}

std::string FloatText(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value < 0 ? "-inf" : "inf";
  char buffer[64];
  auto end = std::to_chars(buffer, buffer + sizeof(buffer), value, std::chars_format::scientific);
  std::string scientific(buffer, end.ptr);
  const int exponent = std::atoi(scientific.c_str() + scientific.find('e') + 1);
  if (exponent < -4 || exponent >= 16) return scientific;
  end = std::to_chars(buffer, buffer + sizeof(buffer), value, std::chars_format::fixed);
  std::string fixed(buffer, end.ptr);
  if (fixed.find('.') == std::string::npos) fixed += ".0";
  return fixed;
}

}  // namespace nsa::engine::jinja
