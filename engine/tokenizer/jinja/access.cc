// Attributes, items, slices, and the methods of strings and dicts.

#include <algorithm>
#include <array>
#include <limits>

#include "engine/text.h"
#include "engine/tokenizer/jinja/builtins.h"
#include "engine/tokenizer/jinja/python_text.h"
#include "engine/tokenizer/jinja/status.h"

namespace nsa::engine::jinja {
namespace {

constexpr std::string_view kTextMethods[] = {
    "strip",      "lstrip",   "rstrip", "split", "rsplit",       "splitlines",
    "startswith", "endswith", "upper",  "lower", "title",        "capitalize",
    "replace",    "find",     "count",  "join",  "removeprefix", "removesuffix"};
constexpr std::string_view kDictMethods[] = {"items", "keys", "values", "get"};

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
    return Value::OfText(std::string(SubText(*text, *at, *at + 1)));
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

absl::StatusOr<Value> TextList(const std::vector<std::string_view>& parts, Budget& budget) {
  std::vector<Value> items;
  for (std::string_view part : parts) {
    JINJA_ASSIGN_OR_RETURN(Value item, MakeText(std::string(part), budget));
    items.push_back(std::move(item));
  }
  return MakeSequence(Sequence::Kind::kList, std::move(items), budget);
}

// A string argument; nothing if not given or None.
absl::StatusOr<std::optional<std::string_view>> TextArgument(const Value* argument) {
  if (argument == nullptr || argument->IsNone()) return std::nullopt;
  if (!argument->AsText()) return Error("the argument must be a string");
  return std::string_view(*argument->AsText());
}

absl::StatusOr<int64_t> IntArgument(const Value* argument, int64_t fallback) {
  if (argument == nullptr) return fallback;
  if (!argument->AsInt()) return Error("the argument must be an integer");
  return *argument->AsInt();
}

absl::StatusOr<Value> StripMethod(const std::string& self, Side side, const Arguments& arguments,
                                  Budget& budget) {
  JINJA_ASSIGN_OR_RETURN(auto bound, Bind(arguments, {"chars"}));
  JINJA_ASSIGN_OR_RETURN(auto characters, TextArgument(bound[0]));
  if (characters) JINJA_RETURN_IF_ERROR(budget.ChargeBytes(self.size() * characters->size()));
  return MakeText(std::string(Strip(self, characters, side)), budget);
}

// Python's rsplit: at most `limit` cuts, from the right.
std::vector<std::string_view> SplitFromRight(std::string_view text, std::string_view separator,
                                             int64_t limit) {
  std::vector<std::string_view> parts;
  while (limit < 0 || static_cast<int64_t>(parts.size()) < limit) {
    const size_t at = text.rfind(separator);
    if (at == std::string_view::npos) break;
    parts.push_back(text.substr(at + separator.size()));
    text = text.substr(0, at);
  }
  parts.push_back(text);
  std::reverse(parts.begin(), parts.end());
  return parts;
}

absl::StatusOr<Value> SplitMethod(const std::string& self, bool from_right,
                                  const Arguments& arguments, Budget& budget) {
  JINJA_ASSIGN_OR_RETURN(auto bound, Bind(arguments, {"sep", "maxsplit"}));
  JINJA_ASSIGN_OR_RETURN(auto separator, TextArgument(bound[0]));
  JINJA_ASSIGN_OR_RETURN(int64_t limit, IntArgument(bound[1], -1));
  if (separator && separator->empty()) return Error("split: empty separator");
  JINJA_RETURN_IF_ERROR(budget.ChargeBytes(self.size()));
  if (!from_right || limit < 0) return TextList(Split(self, separator, limit), budget);
  if (!separator) return Error("rsplit needs a separator if it has a limit");
  JINJA_RETURN_IF_ERROR(budget.ChargeBytes(self.size() * separator->size()));
  return TextList(SplitFromRight(self, *separator, limit), budget);
}

absl::StatusOr<Value> AffixMethod(const std::string& self, bool start, const Arguments& arguments,
                                  Budget& budget) {
  if (arguments.positional.size() != 1 || !arguments.named.empty()) {
    return Error("startswith and endswith take one argument here");
  }
  const Value& argument = arguments.positional[0];
  const Sequence* tuple = argument.AsSequence();
  if (tuple != nullptr && tuple->kind != Sequence::Kind::kTuple) tuple = nullptr;
  const size_t count = tuple == nullptr ? 1 : tuple->items.size();
  for (size_t i = 0; i < count; ++i) {
    const std::string* affix = (tuple == nullptr ? argument : tuple->items[i]).AsText();
    if (affix == nullptr) return Error("startswith and endswith need a string or a tuple of them");
    JINJA_RETURN_IF_ERROR(budget.ChargeBytes(affix->size()));
    const std::string_view text = self;
    if (start ? text.starts_with(*affix) : text.ends_with(*affix)) return Value::OfBool(true);
  }
  return Value::OfBool(false);
}

absl::StatusOr<Value> ReplaceMethod(const std::string& self, const Arguments& arguments,
                                    Budget& budget) {
  JINJA_ASSIGN_OR_RETURN(auto bound, Bind(arguments, {"old", "new", "count"}));
  JINJA_ASSIGN_OR_RETURN(auto old, TextArgument(bound[0]));
  JINJA_ASSIGN_OR_RETURN(auto replacement, TextArgument(bound[1]));
  JINJA_ASSIGN_OR_RETURN(int64_t count, IntArgument(bound[2], -1));
  if (!old || !replacement) return Error("replace needs two strings");
  JINJA_RETURN_IF_ERROR(budget.ChargeBytes(self.size()));
  auto text = Replace(self, *old, *replacement, count, kMaxTextBytes);
  if (!text) return Error("a string is over 64 MiB");
  return MakeText(std::move(*text), budget);
}

absl::StatusOr<Value> SearchMethod(const std::string& self, bool count, const Arguments& arguments,
                                   Budget& budget) {
  JINJA_ASSIGN_OR_RETURN(auto bound, Bind(arguments, {"sub"}));
  JINJA_ASSIGN_OR_RETURN(auto part, TextArgument(bound[0]));
  if (!part) return Error("find and count need a string");
  JINJA_RETURN_IF_ERROR(budget.ChargeBytes(self.size()));
  if (!count) {
    const size_t at = Find(self, *part);
    if (at == std::string::npos) return Value::OfInt(-1);
    return Value::OfInt(
        static_cast<int64_t>(CountCharacters(std::string_view(self).substr(0, at))));
  }
  if (part->empty()) return Value::OfInt(static_cast<int64_t>(CountCharacters(self)) + 1);
  int64_t hits = 0;
  for (size_t at = Find(self, *part); at != std::string::npos;
       at = Find(self, *part, at + part->size())) {
    ++hits;
  }
  return Value::OfInt(hits);
}

absl::StatusOr<Value> JoinMethod(const std::string& self, const Arguments& arguments,
                                 Budget& budget) {
  JINJA_ASSIGN_OR_RETURN(auto bound, Bind(arguments, {"iterable"}));
  if (bound[0] == nullptr) return Error("join needs an argument");
  JINJA_ASSIGN_OR_RETURN(std::vector<Value> items, Iterate(*bound[0], budget));
  std::string out;
  for (size_t i = 0; i < items.size(); ++i) {
    if (!items[i].AsText()) return Error("join: item ", i, " is not a string");
    JINJA_RETURN_IF_ERROR(budget.ChargeBytes(self.size() + items[i].AsText()->size()));
    if (i > 0) out += self;
    out += *items[i].AsText();
    if (out.size() > kMaxTextBytes) return Error("a string is over 64 MiB");
  }
  return MakeText(std::move(out), budget);
}

absl::StatusOr<Value> RemoveAffix(const std::string& self, bool prefix, const Arguments& arguments,
                                  Budget& budget) {
  JINJA_ASSIGN_OR_RETURN(auto bound, Bind(arguments, {"affix"}));
  JINJA_ASSIGN_OR_RETURN(auto affix, TextArgument(bound[0]));
  if (!affix) return Error("removeprefix and removesuffix need a string");
  std::string_view text = self;
  if (prefix && text.starts_with(*affix)) text.remove_prefix(affix->size());
  if (!prefix && text.ends_with(*affix)) text.remove_suffix(affix->size());
  return MakeText(std::string(text), budget);
}

absl::StatusOr<Value> CallTextMethod(const std::string& self, std::string_view name,
                                     const Arguments& arguments, Budget& budget) {
  JINJA_RETURN_IF_ERROR(budget.ChargeBytes(self.size()));
  if (name == "strip") return StripMethod(self, Side::kBoth, arguments, budget);
  if (name == "lstrip") return StripMethod(self, Side::kLeft, arguments, budget);
  if (name == "rstrip") return StripMethod(self, Side::kRight, arguments, budget);
  if (name == "split" || name == "rsplit") {
    return SplitMethod(self, name == "rsplit", arguments, budget);
  }
  if (name == "startswith" || name == "endswith") {
    return AffixMethod(self, name == "startswith", arguments, budget);
  }
  if (name == "replace") return ReplaceMethod(self, arguments, budget);
  if (name == "find" || name == "count") {
    return SearchMethod(self, name == "count", arguments, budget);
  }
  if (name == "join") return JoinMethod(self, arguments, budget);
  if (name == "removeprefix" || name == "removesuffix") {
    return RemoveAffix(self, name == "removeprefix", arguments, budget);
  }
  JINJA_RETURN_IF_ERROR(Bind(arguments, {}).status());
  if (name == "splitlines") return TextList(SplitLines(self), budget);
  if (name == "upper") return MakeText(Upper(self), budget);
  if (name == "lower") return MakeText(Lower(self), budget);
  if (name == "title") return MakeText(Title(self), budget);
  return MakeText(Capitalize(self), budget);
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
  return MakeSequence(Sequence::Kind::kView, std::move(items), budget);
}

}  // namespace

bool HasMethod(const Value& value, std::string_view name) {
  if (value.AsText()) {
    return std::find(std::begin(kTextMethods), std::end(kTextMethods), name) !=
           std::end(kTextMethods);
  }
  return value.AsDict() && std::find(std::begin(kDictMethods), std::end(kDictMethods), name) !=
                               std::end(kDictMethods);
}

absl::StatusOr<Value> CallMethod(const Value& self, std::string_view name,
                                 const Arguments& arguments, Budget& budget) {
  if (const Dict* dict = self.AsDict()) return CallDictMethod(*dict, name, arguments, budget);
  return CallTextMethod(*self.AsText(), name, arguments, budget);
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
      if (range.first >= range.last) return Value::OfText("");
      return MakeText(std::string(SubText(*text, static_cast<size_t>(range.first),
                                          static_cast<size_t>(range.last))),
                      budget);
    }
    JINJA_RETURN_IF_ERROR(budget.Charge(text->size()));
    const std::vector<std::string_view> characters = Characters(*text);
    std::string out;
    for (size_t position : range.Positions()) out += characters[position];
    return MakeText(std::move(out), budget);
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
