#include "engine/tokenizer/jinja/text_methods.h"

#include <algorithm>
#include <iterator>
#include <optional>
#include <utility>

#include "engine/tokenizer/jinja/character_class.h"
#include "engine/tokenizer/jinja/python_text.h"
#include "engine/tokenizer/jinja/status.h"

namespace nsa::engine::jinja {
namespace {

using Result = absl::StatusOr<Value>;

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

template <Side side>
Result StripMethod(const std::string& self, const Arguments& arguments, Budget& budget) {
  JINJA_ASSIGN_OR_RETURN(auto bound, Bind(arguments, {"chars"}));
  JINJA_ASSIGN_OR_RETURN(auto characters, TextArgument(bound[0]));
  if (characters) JINJA_RETURN_IF_ERROR(budget.ChargeBytes(self.size() * characters->size()));
  return MakeText(std::string(Strip(self, characters, side)), budget);
}

// Python's rsplit: at most `limit` cuts, from the right; without a separator at white space.
std::vector<std::string_view> SplitFromRight(std::string_view text,
                                             std::optional<std::string_view> separator,
                                             int64_t limit) {
  std::vector<std::string_view> parts;
  if (!separator) {
    const std::vector<std::string_view> words = Split(text, std::nullopt, -1);
    if (static_cast<int64_t>(words.size()) <= limit) return words;
    const auto first_kept = words.end() - static_cast<std::ptrdiff_t>(limit);
    const std::string_view before = *(first_kept - 1);
    const char* end = before.data() + before.size();
    // What is in front of the cuts keeps the white space that it begins with.
    parts.emplace_back(text.data(), static_cast<size_t>(end - text.data()));
    parts.insert(parts.end(), first_kept, words.end());
    return parts;
  }
  while (static_cast<int64_t>(parts.size()) < limit) {
    const size_t at = text.rfind(*separator);
    if (at == std::string_view::npos) break;
    parts.push_back(text.substr(at + separator->size()));
    text = text.substr(0, at);
  }
  parts.push_back(text);
  std::reverse(parts.begin(), parts.end());
  return parts;
}

template <bool from_right>
Result SplitMethod(const std::string& self, const Arguments& arguments, Budget& budget) {
  JINJA_ASSIGN_OR_RETURN(auto bound, Bind(arguments, {"sep", "maxsplit"}));
  JINJA_ASSIGN_OR_RETURN(auto separator, TextArgument(bound[0]));
  JINJA_ASSIGN_OR_RETURN(int64_t limit, IntArgument(bound[1], -1));
  if (separator && separator->empty()) return Error("split: empty separator");
  if (!from_right || limit < 0) return TextList(Split(self, separator, limit), budget);
  if (separator) JINJA_RETURN_IF_ERROR(budget.ChargeBytes(self.size() * separator->size()));
  return TextList(SplitFromRight(self, separator, limit), budget);
}

Result SplitLinesMethod(const std::string& self, const Arguments& arguments, Budget& budget) {
  JINJA_ASSIGN_OR_RETURN(auto bound, Bind(arguments, {"keepends"}));
  std::vector<std::string_view> lines = SplitLines(self);
  if (bound[0] != nullptr && Truth(*bound[0])) {
    for (size_t i = 0; i < lines.size(); ++i) {
      const char* end = i + 1 < lines.size() ? lines[i + 1].data() : self.data() + self.size();
      lines[i] = std::string_view(self).substr(static_cast<size_t>(lines[i].data() - self.data()),
                                               static_cast<size_t>(end - lines[i].data()));
    }
  }
  return TextList(lines, budget);
}

template <bool from_right>
Result PartitionMethod(const std::string& self, const Arguments& arguments, Budget& budget) {
  JINJA_ASSIGN_OR_RETURN(auto bound, Bind(arguments, {"sep"}));
  JINJA_ASSIGN_OR_RETURN(auto separator, TextArgument(bound[0]));
  if (!separator || separator->empty()) return Error("partition needs a separator");
  if (from_right) JINJA_RETURN_IF_ERROR(budget.ChargeBytes(self.size() * separator->size()));
  const size_t at = from_right ? self.rfind(*separator) : Find(self, *separator);
  std::vector<Value> parts(3, Value::OfText(""));
  if (at == std::string::npos) {
    parts[from_right ? 2 : 0] = Value::OfText(self);
  } else {
    parts = {Value::OfText(self.substr(0, at)), Value::OfText(std::string(*separator)),
             Value::OfText(self.substr(at + separator->size()))};
  }
  return MakeSequence(Sequence::Kind::kTuple, std::move(parts), budget);
}

// What Python's [start:end] leaves of a text, and the characters before it. Nothing if it begins
// behind the end, where not even an empty string is found.
struct Part {
  std::string_view text;
  size_t skipped;
};

absl::StatusOr<std::optional<Part>> PartArgument(std::string_view self, const Value* start,
                                                 const Value* end) {
  const auto size = static_cast<int64_t>(CountCharacters(self));
  auto place = [&](const Value* given, int64_t fallback) -> absl::StatusOr<int64_t> {
    if (given == nullptr || given->IsNone()) return fallback;
    JINJA_ASSIGN_OR_RETURN(int64_t at, IntArgument(given, 0));
    return at < 0 ? std::max<int64_t>(at + size, 0) : at;
  };
  JINJA_ASSIGN_OR_RETURN(int64_t first, place(start, 0));
  JINJA_ASSIGN_OR_RETURN(int64_t last, place(end, size));
  last = std::min(last, size);
  if (first > last) return std::nullopt;
  const size_t from = ByteOffset(self, static_cast<size_t>(first));
  const size_t to = ByteOffset(self, static_cast<size_t>(last));
  return Part{self.substr(from, to - from), static_cast<size_t>(first)};
}

template <bool start>
Result AffixMethod(const std::string& self, const Arguments& arguments, Budget& budget) {
  JINJA_ASSIGN_OR_RETURN(auto bound, Bind(arguments, {"affix", "start", "end"}));
  if (bound[0] == nullptr || !arguments.named.empty()) {
    return Error("startswith and endswith need a string or a tuple of them");
  }
  JINJA_ASSIGN_OR_RETURN(auto part, PartArgument(self, bound[1], bound[2]));
  const Sequence* tuple = bound[0]->AsSequence();
  if (tuple != nullptr && tuple->kind != Sequence::Kind::kTuple) tuple = nullptr;
  const size_t count = tuple == nullptr ? 1 : tuple->items.size();
  for (size_t i = 0; i < count; ++i) {
    const std::string* affix = (tuple == nullptr ? *bound[0] : tuple->items[i]).AsText();
    if (affix == nullptr) return Error("startswith and endswith need a string or a tuple of them");
    JINJA_RETURN_IF_ERROR(budget.ChargeBytes(affix->size()));
    if (!part) continue;
    if (start ? part->text.starts_with(*affix) : part->text.ends_with(*affix)) {
      return Value::OfBool(true);
    }
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

// find, rfind, index and rindex: the character where `sub` begins.
template <bool from_right, bool required>
Result FindMethod(const std::string& self, const Arguments& arguments, Budget& budget) {
  JINJA_ASSIGN_OR_RETURN(auto bound, Bind(arguments, {"sub", "start", "end"}));
  JINJA_ASSIGN_OR_RETURN(auto wanted, TextArgument(bound[0]));
  if (!wanted) return Error("find and index need a string");
  JINJA_ASSIGN_OR_RETURN(auto part, PartArgument(self, bound[1], bound[2]));
  size_t at = std::string_view::npos;
  if (part && from_right) {
    JINJA_RETURN_IF_ERROR(budget.ChargeBytes(self.size() * wanted->size()));
    at = part->text.rfind(*wanted);
  } else if (part) {
    at = Find(part->text, *wanted);
  }
  if (at == std::string_view::npos) {
    if (required) return Error("index: the substring is not found");
    return Value::OfInt(-1);
  }
  return Value::OfInt(
      static_cast<int64_t>(part->skipped + CountCharacters(part->text.substr(0, at))));
}

Result CountMethod(const std::string& self, const Arguments& arguments, Budget&) {
  JINJA_ASSIGN_OR_RETURN(auto bound, Bind(arguments, {"sub", "start", "end"}));
  JINJA_ASSIGN_OR_RETURN(auto wanted, TextArgument(bound[0]));
  if (!wanted) return Error("count needs a string");
  JINJA_ASSIGN_OR_RETURN(auto part, PartArgument(self, bound[1], bound[2]));
  if (!part) return Value::OfInt(0);
  if (wanted->empty()) return Value::OfInt(static_cast<int64_t>(CountCharacters(part->text)) + 1);
  int64_t hits = 0;
  for (size_t at = Find(part->text, *wanted); at != std::string_view::npos;
       at = Find(part->text, *wanted, at + wanted->size())) {
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

template <bool prefix>
Result RemoveAffix(const std::string& self, const Arguments& arguments, Budget& budget) {
  JINJA_ASSIGN_OR_RETURN(auto bound, Bind(arguments, {"affix"}));
  JINJA_ASSIGN_OR_RETURN(auto affix, TextArgument(bound[0]));
  if (!affix) return Error("removeprefix and removesuffix need a string");
  std::string_view text = self;
  if (prefix && text.starts_with(*affix)) text.remove_prefix(affix->size());
  if (!prefix && text.ends_with(*affix)) text.remove_suffix(affix->size());
  return MakeText(std::string(text), budget);
}

enum class Align { kLeft, kCentre, kRight };

template <Align align>
Result AlignMethod(const std::string& self, const Arguments& arguments, Budget& budget) {
  JINJA_ASSIGN_OR_RETURN(auto bound, Bind(arguments, {"width", "fillchar"}));
  if (bound[0] == nullptr) return Error("the width is missing");
  JINJA_ASSIGN_OR_RETURN(int64_t width, IntArgument(bound[0], 0));
  JINJA_ASSIGN_OR_RETURN(auto fill, TextArgument(bound[1]));
  const std::string_view filler = fill.value_or(" ");
  if (CountCharacters(filler) != 1) return Error("the fill character must be one");
  const int64_t missing = width - static_cast<int64_t>(CountCharacters(self));
  if (missing <= 0) return Value::OfText(self);
  if (missing > static_cast<int64_t>(kMaxTextBytes / 4)) return Error("a string is over 64 MiB");
  JINJA_RETURN_IF_ERROR(budget.ChargeBytes(filler.size() * static_cast<uint64_t>(missing)));
  // Where both sides cannot have as many, Python gives the left one more if the width is odd.
  const int64_t left = align == Align::kLeft    ? 0
                       : align == Align::kRight ? missing
                                                : missing / 2 + (missing & width & 1);
  std::string out;
  for (int64_t i = 0; i < left; ++i) out += filler;
  out += self;
  for (int64_t i = left; i < missing; ++i) out += filler;
  return MakeText(std::move(out), budget);
}

Result ZeroFillMethod(const std::string& self, const Arguments& arguments, Budget& budget) {
  JINJA_ASSIGN_OR_RETURN(auto bound, Bind(arguments, {"width"}));
  if (bound[0] == nullptr) return Error("zfill needs a width");
  const bool has_sign = !self.empty() && (self[0] == '-' || self[0] == '+');
  const std::string sign = self.substr(0, has_sign ? 1 : 0);
  JINJA_ASSIGN_OR_RETURN(int64_t width, IntArgument(bound[0], 0));
  const int64_t rest = std::max(width, int64_t{0}) - static_cast<int64_t>(sign.size());
  JINJA_ASSIGN_OR_RETURN(Value padded, AlignMethod<Align::kRight>(
                                           self.substr(sign.size()),
                                           {{Value::OfInt(rest), Value::OfText("0")}, {}}, budget));
  return MakeText(sign + *padded.AsText(), budget);
}

template <std::string (*Convert)(std::string_view)>
Result ConvertMethod(const std::string& self, const Arguments& arguments, Budget& budget) {
  JINJA_RETURN_IF_ERROR(Bind(arguments, {}).status());
  return MakeText(Convert(self), budget);
}

template <bool (*Holds)(std::string_view)>
Result PredicateMethod(const std::string& self, const Arguments& arguments, Budget&) {
  JINJA_RETURN_IF_ERROR(Bind(arguments, {}).status());
  return Value::OfBool(Holds(self));
}

using TextMethod = Result (*)(const std::string&, const Arguments&, Budget&);

constexpr std::pair<std::string_view, TextMethod> kMethods[] = {
    {"capitalize", ConvertMethod<Capitalize>},
    {"center", AlignMethod<Align::kCentre>},
    {"count", CountMethod},
    {"endswith", AffixMethod<false>},
    {"find", FindMethod<false, false>},
    {"format", nullptr},  // in CallTextMethod: it must know whether the text is safe
    {"index", FindMethod<false, true>},
    {"isalnum", PredicateMethod<IsAlphanumeric>},
    {"isalpha", PredicateMethod<IsAlphabetic>},
    {"isdecimal", PredicateMethod<IsDecimal>},
    {"isdigit", PredicateMethod<IsDigits>},
    {"islower", PredicateMethod<IsLower>},
    {"isspace", PredicateMethod<IsBlank>},
    {"isupper", PredicateMethod<IsUpper>},
    {"join", JoinMethod},
    {"ljust", AlignMethod<Align::kLeft>},
    {"lower", ConvertMethod<Lower>},
    {"lstrip", StripMethod<Side::kLeft>},
    {"partition", PartitionMethod<false>},
    {"removeprefix", RemoveAffix<true>},
    {"removesuffix", RemoveAffix<false>},
    {"replace", ReplaceMethod},
    {"rfind", FindMethod<true, false>},
    {"rindex", FindMethod<true, true>},
    {"rjust", AlignMethod<Align::kRight>},
    {"rpartition", PartitionMethod<true>},
    {"rsplit", SplitMethod<true>},
    {"rstrip", StripMethod<Side::kRight>},
    {"split", SplitMethod<false>},
    {"splitlines", SplitLinesMethod},
    {"startswith", AffixMethod<true>},
    {"strip", StripMethod<Side::kBoth>},
    {"swapcase", ConvertMethod<SwapCase>},
    {"title", ConvertMethod<Title>},
    {"upper", ConvertMethod<Upper>},
    {"zfill", ZeroFillMethod},
};

// What safe text takes in: the text to join, to put in or to fill up with.
absl::StatusOr<Arguments> EscapeArguments(std::string_view name, Arguments arguments,
                                          Budget& budget) {
  std::vector<Value>& given = arguments.positional;
  if (name == "join" && given.size() == 1) {
    JINJA_ASSIGN_OR_RETURN(std::vector<Value> items, Iterate(given[0], budget));
    for (Value& item : items) {
      JINJA_ASSIGN_OR_RETURN(item, Escape(item, budget));
    }
    JINJA_ASSIGN_OR_RETURN(given[0], MakeSequence(Sequence::Kind::kList, std::move(items), budget));
  }
  if (name == "replace" && given.size() > 1) {
    JINJA_ASSIGN_OR_RETURN(given[1], Escape(given[1], budget));
  }
  return arguments;
}

Result MarkSafe(const Value& value, Budget& budget) {
  const Sequence* sequence = value.AsSequence();
  if (sequence == nullptr) return value.AsSafe();
  std::vector<Value> items;
  for (const Value& item : sequence->items) items.push_back(item.AsSafe());
  return MakeSequence(sequence->kind, std::move(items), budget);
}

}  // namespace

bool HasTextMethod(std::string_view name) {
  return std::any_of(std::begin(kMethods), std::end(kMethods),
                     [&](const auto& method) { return method.first == name; });
}

absl::StatusOr<Value> CallTextMethod(const Value& self, std::string_view name,
                                     const Arguments& arguments, Budget& budget) {
  JINJA_RETURN_IF_ERROR(budget.ChargeBytes(self.AsText()->size()));
  if (name == "format") return FormatText(self, arguments, budget);
  const auto* method = std::find_if(std::begin(kMethods), std::end(kMethods),
                                    [&](const auto& known) { return known.first == name; });
  if (!self.IsSafe()) return method->second(*self.AsText(), arguments, budget);
  JINJA_ASSIGN_OR_RETURN(Arguments escaped, EscapeArguments(name, arguments, budget));
  JINJA_ASSIGN_OR_RETURN(Value result, method->second(*self.AsText(), escaped, budget));
  return MarkSafe(result, budget);
}

absl::StatusOr<Value> Escape(const Value& value, Budget& budget) {
  if (value.IsSafe()) return value;
  JINJA_ASSIGN_OR_RETURN(std::string text, ToText(value, budget));
  std::string out;
  for (char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '\'':
        out += "&#39;";
        break;
      case '"':
        out += "&#34;";
        break;
      default:
        out += c;
    }
  }
  JINJA_ASSIGN_OR_RETURN(Value escaped, MakeText(std::move(out), budget));
  return escaped.AsSafe();
}

}  // namespace nsa::engine::jinja
