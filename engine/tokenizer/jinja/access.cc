// Attributes, items, slices, and the methods of dicts and lists.

#include <algorithm>
#include <array>
#include <limits>

#include "engine/text.h"
#include "engine/tokenizer/jinja/builtins.h"
#include "engine/tokenizer/jinja/python_text.h"
#include "engine/tokenizer/jinja/status.h"
#include "engine/tokenizer/jinja/text_methods.h"

namespace nsa::engine::jinja {
namespace {

constexpr std::string_view kDictMethods[] = {"items", "keys", "values", "get", "copy"};
constexpr std::string_view kListMethods[] = {"count", "index", "copy"};

Value MakeMethod(const Value& self, std::string_view name) {
  auto function = std::make_shared<Function>();
  function->kind = Function::Kind::kMethod;
  function->name = std::string(name);
  function->self = self;
  return Value(Value::Variant(std::shared_ptr<const Function>(std::move(function))));
}

std::string ObjectName(const Value& value) {
  if (value.IsNone()) return "'None'";
  return absl::StrCat("'", View(TypeName(value)), " object'");
}

// Where the item of a sequence of `size` is; nothing if out of range.
std::optional<size_t> ItemAt(int64_t index, size_t size) {
  const auto count = static_cast<int64_t>(size);
  if (index < 0) index += count;
  if (index < 0 || index >= count) return std::nullopt;
  return static_cast<size_t>(index);
}

// The characters from `first` to before `last`.
std::string_view SubText(std::string_view text, size_t first, size_t last) {
  text.remove_prefix(ByteOffset(text, first));
  return text.substr(0, ByteOffset(text, last - first));
}

// A part of a safe text is safe.
Value LikeText(const Value& whole, const Value& part) {
  return whole.IsSafe() ? part.AsSafe() : part;
}

// The part of a value that a[key] finds, without the detour over methods.
absl::StatusOr<std::optional<Value>> FindItem(const Value& value, const Value& key,
                                              Budget& budget) {
  if (const Dict* dict = value.AsDict()) {
    if (key.AsDict()) return std::nullopt;
    const Sequence* list = key.AsSequence();
    if (list != nullptr && list->kind == Sequence::Kind::kList) return std::nullopt;
    JINJA_ASSIGN_OR_RETURN(const Value* item, FindKey(*dict, key, budget));
    return item == nullptr ? std::nullopt : std::optional<Value>(*item);
  }
  const std::optional<int64_t> index = key.AsInt();
  if (!index) return std::nullopt;
  if (const std::string* text = value.AsText()) {
    JINJA_RETURN_IF_ERROR(budget.ChargeBytes(text->size()));
    const std::optional<size_t> at = ItemAt(*index, CountCharacters(*text));
    if (!at) return std::nullopt;
    return LikeText(value, Value::OfText(std::string(SubText(*text, *at, *at + 1))));
  }
  const Sequence* sequence = value.AsSequence();
  if (sequence == nullptr || sequence->kind == Sequence::Kind::kView ||
      sequence->kind == Sequence::Kind::kGenerator) {
    return std::nullopt;
  }
  const std::optional<size_t> at = ItemAt(*index, sequence->items.size());
  if (!at) return std::nullopt;
  return sequence->items[*at];
}

struct SliceRange {
  int64_t first;
  int64_t last;  // not taken
  int64_t stride;

  std::vector<size_t> Positions() const {
    std::vector<size_t> positions;
    int64_t at = first;
    while (stride > 0 ? at < last : at > last) {
      positions.push_back(static_cast<size_t>(at));
      // The distance is compared first, for the sum could overflow.
      if (stride > 0 ? stride >= last - at : stride <= last - at) break;
      at += stride;
    }
    return positions;
  }
};

// Python's slice.indices(): what a slice takes of `size` items.
absl::StatusOr<SliceRange> ResolveSlice(int64_t size, const Value& start, const Value& stop,
                                        const Value& step) {
  for (const Value* part : {&start, &stop, &step}) {
    if (!part->IsNone() && !part->AsInt()) return Error("a slice's parts must be integers");
  }
  const int64_t stride = step.IsNone() ? 1 : *step.AsInt();
  if (stride == 0) return Error("a slice's step cannot be zero");
  const int64_t low = stride > 0 ? 0 : -1;
  const int64_t high = stride > 0 ? size : size - 1;
  auto clamp = [&](const Value& part, int64_t fallback) {
    if (part.IsNone()) return fallback;
    int64_t at = *part.AsInt();
    if (at < 0) at += size;
    return std::clamp(at, low, high);
  };
  return SliceRange{clamp(start, stride > 0 ? low : high), clamp(stop, stride > 0 ? high : low),
                    stride};
}

absl::StatusOr<Value> CallDictMethod(const Dict& dict, std::string_view name,
                                     const Arguments& arguments, Budget& budget) {
  if (name == "get") {
    JINJA_ASSIGN_OR_RETURN(auto bound, Bind(arguments, {"key", "default"}));
    if (bound[0] == nullptr || !arguments.named.empty()) return Error("get needs a key");
    JINJA_ASSIGN_OR_RETURN(const Value* value, FindKey(dict, *bound[0], budget));
    if (value != nullptr) return *value;
    return bound[1] == nullptr ? Value() : *bound[1];
  }
  JINJA_RETURN_IF_ERROR(Bind(arguments, {}).status());
  if (name == "copy") return MakeDict(dict.items, budget);
  std::vector<Value> items;
  for (const auto& [key, value] : dict.items) {
    if (name == "items") {
      JINJA_ASSIGN_OR_RETURN(Value pair,
                             MakeSequence(Sequence::Kind::kTuple, {key, value}, budget));
      items.push_back(std::move(pair));
    } else {
      items.push_back(name == "keys" ? key : value);
    }
  }
  return MakeLabelled(Sequence::Kind::kView, absl::StrCat("dict_", View(name)), std::move(items),
                      budget);
}

absl::StatusOr<Value> CallListMethod(const Sequence& list, std::string_view name,
                                     const Arguments& arguments, Budget& budget) {
  if (name == "copy") {
    JINJA_RETURN_IF_ERROR(Bind(arguments, {}).status());
    return MakeSequence(list.kind, list.items, budget);
  }
  JINJA_ASSIGN_OR_RETURN(auto bound, Bind(arguments, {"value"}));
  if (bound[0] == nullptr) return Error(View(name), " needs a value");
  int64_t hits = 0;
  for (size_t i = 0; i < list.items.size(); ++i) {
    JINJA_ASSIGN_OR_RETURN(bool equal, Equal(list.items[i], *bound[0], budget));
    if (equal && name == "index") return Value::OfInt(static_cast<int64_t>(i));
    hits += equal ? 1 : 0;
  }
  if (name == "index") return Error("index: the value is not in the list");
  return Value::OfInt(hits);
}

}  // namespace

bool HasMethod(const Value& value, std::string_view name) {
  auto among = [&](const auto& names) {
    return std::find(std::begin(names), std::end(names), name) != std::end(names);
  };
  if (value.AsText()) return HasTextMethod(name);
  if (value.AsDict()) return among(kDictMethods);
  const Sequence* sequence = value.AsSequence();
  if (sequence == nullptr || sequence->kind == Sequence::Kind::kView ||
      sequence->kind == Sequence::Kind::kGenerator) {
    return false;
  }
  return among(kListMethods) && (name != "copy" || sequence->kind == Sequence::Kind::kList);
}

absl::StatusOr<Value> CallMethod(const Value& self, std::string_view name,
                                 const Arguments& arguments, Budget& budget) {
  if (const Dict* dict = self.AsDict()) return CallDictMethod(*dict, name, arguments, budget);
  if (const Sequence* list = self.AsSequence()) {
    return CallListMethod(*list, name, arguments, budget);
  }
  if (const auto* loop = self.As<std::shared_ptr<LoopObject>>()) {
    return (*loop)->Call(name, arguments);
  }
  return CallTextMethod(self, name, arguments, budget);
}

absl::StatusOr<Value> GetAttribute(const Value& value, std::string_view name, Budget& budget) {
  if (const Undefined* undefined = value.As<Undefined>()) return Error(*undefined->reason);
  if (HasMethod(value, name)) return MakeMethod(value, name);
  if (const auto* loop = value.As<std::shared_ptr<LoopObject>>()) return (*loop)->Attribute(name);
  if (const Namespace* space = value.AsNamespace()) {
    if (const Value* found = space->Find(name)) return *found;
  }
  if (value.AsDict()) {
    JINJA_ASSIGN_OR_RETURN(auto item, FindItem(value, Value::OfText(std::string(name)), budget));
    if (item) return *item;
  }
  return Value::OfUndefined(
      absl::StrCat(ObjectName(value), " has no attribute '", View(name), "'"));
}

absl::StatusOr<Value> GetItem(const Value& value, const Value& key, Budget& budget) {
  if (const Undefined* undefined = value.As<Undefined>()) return Error(*undefined->reason);
  JINJA_ASSIGN_OR_RETURN(auto item, FindItem(value, key, budget));
  if (item) return *item;
  const std::string* name = key.AsText();
  if (name != nullptr && !value.AsDict()) return GetAttribute(value, *name, budget);
  if (name != nullptr && HasMethod(value, *name)) return MakeMethod(value, *name);
  if (name != nullptr) {
    return Value::OfUndefined(absl::StrCat(ObjectName(value), " has no attribute '", *name, "'"));
  }
  JINJA_ASSIGN_OR_RETURN(std::string text, ToText(key, budget));
  return Value::OfUndefined(absl::StrCat(ObjectName(value), " has no element ", text));
}

absl::StatusOr<Value> GetSlice(const Value& value, const Value& start, const Value& stop,
                               const Value& step, Budget& budget) {
  if (const std::string* text = value.AsText()) {
    JINJA_RETURN_IF_ERROR(budget.ChargeBytes(text->size()));
    JINJA_ASSIGN_OR_RETURN(
        SliceRange range,
        ResolveSlice(static_cast<int64_t>(CountCharacters(*text)), start, stop, step));
    if (range.stride == 1) {
      if (range.first >= range.last) return LikeText(value, Value::OfText(""));
      JINJA_ASSIGN_OR_RETURN(Value part,
                             MakeText(std::string(SubText(*text, static_cast<size_t>(range.first),
                                                          static_cast<size_t>(range.last))),
                                      budget));
      return LikeText(value, part);
    }
    JINJA_RETURN_IF_ERROR(budget.Charge(text->size()));
    const std::vector<std::string_view> characters = Characters(*text);
    std::string out;
    for (size_t position : range.Positions()) out += characters[position];
    JINJA_ASSIGN_OR_RETURN(Value part, MakeText(std::move(out), budget));
    return LikeText(value, part);
  }
  const Sequence* sequence = value.AsSequence();
  if (sequence == nullptr || sequence->kind == Sequence::Kind::kView ||
      sequence->kind == Sequence::Kind::kGenerator) {
    if (const Undefined* undefined = value.As<Undefined>()) return Error(*undefined->reason);
    return Error(ObjectName(value), " cannot be sliced");
  }
  JINJA_RETURN_IF_ERROR(budget.Charge(1 + sequence->items.size()));
  JINJA_ASSIGN_OR_RETURN(
      SliceRange range,
      ResolveSlice(static_cast<int64_t>(sequence->items.size()), start, stop, step));
  std::vector<Value> items;
  for (size_t position : range.Positions()) items.push_back(sequence->items[position]);
  return MakeSequence(sequence->kind, std::move(items), budget);
}

absl::StatusOr<bool> Contains(const Value& whole, const Value& part, Budget& budget) {
  if (const std::string* text = whole.AsText()) {
    if (!part.AsText()) return Error("'in <string>' needs a string on its left");
    JINJA_RETURN_IF_ERROR(budget.ChargeBytes(text->size()));
    return Find(*text, *part.AsText()) != std::string_view::npos;
  }
  if (const Dict* dict = whole.AsDict()) {
    JINJA_ASSIGN_OR_RETURN(const Value* found, FindKey(*dict, part, budget));
    return found != nullptr;
  }
  JINJA_ASSIGN_OR_RETURN(std::vector<Value> items, Iterate(whole, budget));
  for (const Value& item : items) {
    JINJA_ASSIGN_OR_RETURN(bool equal, Equal(item, part, budget));
    if (equal) return true;
  }
  return false;
}

}  // namespace nsa::engine::jinja
