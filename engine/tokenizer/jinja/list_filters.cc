// Filters over what can be iterated.

#include <algorithm>
#include <numeric>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "engine/text.h"
#include "engine/tokenizer/jinja/filters.h"
#include "engine/tokenizer/jinja/python_text.h"
#include "engine/tokenizer/jinja/status.h"

namespace nsa::engine::jinja {
namespace {

using Result = absl::StatusOr<Value>;

bool IsTrue(const Value* argument) { return argument != nullptr && Truth(*argument); }
Value OrNone(const Value* argument) { return argument == nullptr ? Value() : *argument; }

// What sorting compares: without regard to case unless asked for.
Result SortKey(Value value, bool case_sensitive, Budget& budget) {
  if (case_sensitive || !value.AsText()) return value;
  return MakeText(Lower(*value.AsText()), budget);
}

Result FirstFilter(const Value& input, const Arguments& arguments, Budget& budget) {
  JINJA_RETURN_IF_ERROR(Bind(arguments, {}).status());
  const Sequence* sequence = input.AsSequence();
  // A generator is not read further, so that an error behind its first item does not show.
  if (sequence != nullptr && !sequence->consumed && !sequence->items.empty()) {
    return sequence->items.front();
  }
  JINJA_ASSIGN_OR_RETURN(std::vector<Value> items, Iterate(input, budget));
  if (items.empty()) return Value::OfUndefined("No first item, sequence was empty.");
  return items.front();
}

Result LastFilter(const Value& input, const Arguments& arguments, Budget& budget) {
  JINJA_RETURN_IF_ERROR(Bind(arguments, {}).status());
  if (input.AsSequence() && input.AsSequence()->kind == Sequence::Kind::kGenerator) {
    return Error("last needs a list; put |list in front of it");
  }
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
  if (input.AsText()) return GetSlice(input, Value(), Value(), Value::OfInt(-1), budget);
  const bool generator =
      input.AsSequence() && input.AsSequence()->kind == Sequence::Kind::kGenerator;
  JINJA_ASSIGN_OR_RETURN(std::vector<Value> items, Iterate(input, budget));
  std::reverse(items.begin(), items.end());
  return MakeSequence(generator ? Sequence::Kind::kList : Sequence::Kind::kGenerator,
                      std::move(items), budget);
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
    JINJA_ASSIGN_OR_RETURN(Value item, GetPath(items[i], OrNone(bound[1]), Value(), budget));
    JINJA_ASSIGN_OR_RETURN(std::string text, ToText(item, budget));
    JINJA_RETURN_IF_ERROR(budget.ChargeBytes(separator.size()));
    if (i > 0) out += separator;
    out += text;
    if (out.size() > kMaxTextBytes) return Error("a string is over 64 MiB");
  }
  return MakeText(std::move(out), budget);
}

Result ItemsFilter(const Value& input, const Arguments& arguments, Budget& budget) {
  JINJA_RETURN_IF_ERROR(Bind(arguments, {}).status());
  if (input.IsUndefined()) return MakeGenerator({}, absl::OkStatus(), budget);
  if (!input.AsDict()) return MakeGenerator({}, Error("items needs a dict"), budget);
  JINJA_ASSIGN_OR_RETURN(Value view, CallMethod(input, "items", {}, budget));
  return MakeGenerator(view.AsSequence()->items, absl::OkStatus(), budget);
}

absl::Status Map(const Value& input, const Arguments& arguments, std::vector<Value>& out,
                 Budget& budget) {
  if (!Truth(input)) return absl::OkStatus();
  JINJA_ASSIGN_OR_RETURN(std::vector<Value> items, Iterate(input, budget));
  if (arguments.positional.empty()) {
    JINJA_ASSIGN_OR_RETURN(auto bound, Bind(arguments, {"attribute", "default"}));
    if (bound[0] == nullptr) return Error("map needs a filter or an attribute");
    for (const Value& item : items) {
      JINJA_ASSIGN_OR_RETURN(Value part, GetPath(item, *bound[0], OrNone(bound[1]), budget));
      out.push_back(std::move(part));
    }
    return absl::OkStatus();
  }
  const std::string* name = arguments.positional[0].AsText();
  const FilterFunction filter = name == nullptr ? nullptr : FindFilter(*name);
  if (filter == nullptr) return Error("map: no such filter");
  const Arguments rest{{arguments.positional.begin() + 1, arguments.positional.end()},
                       arguments.named};
  for (const Value& item : items) {
    JINJA_ASSIGN_OR_RETURN(Value part, filter(item, rest, budget));
    out.push_back(std::move(part));
  }
  return absl::OkStatus();
}

// select, reject, selectattr and rejectattr: the items whose test has the value `Wanted`.
template <bool Wanted, bool ByAttribute>
absl::Status Select(const Value& input, const Arguments& arguments, std::vector<Value>& out,
                    Budget& budget) {
  if (!Truth(input)) return absl::OkStatus();
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
  JINJA_ASSIGN_OR_RETURN(std::vector<Value> items, Iterate(input, budget));
  for (const Value& item : items) {
    Value tested = item;
    if (ByAttribute) {
      JINJA_ASSIGN_OR_RETURN(tested, GetPath(item, given[0], Value(), budget));
    }
    bool passes = Truth(tested);
    if (test != nullptr) {
      JINJA_ASSIGN_OR_RETURN(passes, test(tested, rest, budget));
    }
    if (passes == Wanted) out.push_back(item);
  }
  return absl::OkStatus();
}

absl::Status Unique(const Value& input, const Arguments& arguments, std::vector<Value>& out,
                    Budget& budget) {
  JINJA_ASSIGN_OR_RETURN(auto bound, Bind(arguments, {"case_sensitive", "attribute"}));
  JINJA_ASSIGN_OR_RETURN(std::vector<Value> items, Iterate(input, budget));
  std::vector<std::pair<Value, Value>> keys;
  for (Value& item : items) {
    JINJA_ASSIGN_OR_RETURN(Value key, GetPath(item, OrNone(bound[1]), Value(), budget));
    JINJA_ASSIGN_OR_RETURN(key, SortKey(std::move(key), IsTrue(bound[0]), budget));
    JINJA_ASSIGN_OR_RETURN(bool known, HasKey(keys, key, budget));
    if (known) continue;
    keys.emplace_back(std::move(key), Value());
    out.push_back(std::move(item));
  }
  return absl::OkStatus();
}

absl::Status AppendRun(std::vector<Value> run, std::vector<Value>& out, Budget& budget) {
  JINJA_ASSIGN_OR_RETURN(Value list, MakeSequence(Sequence::Kind::kList, std::move(run), budget));
  out.push_back(std::move(list));
  return absl::OkStatus();
}

// The count of `batch` or `slice`.
absl::StatusOr<size_t> RunCount(const Value* argument) {
  const auto count = argument == nullptr ? std::nullopt : argument->AsInt();
  if (!count || *count < 1) return Error("the count must be a positive integer");
  return static_cast<size_t>(*count);
}

absl::Status Batch(const Value& input, const Arguments& arguments, std::vector<Value>& out,
                   Budget& budget) {
  JINJA_ASSIGN_OR_RETURN(auto bound, Bind(arguments, {"linecount", "fill_with"}));
  JINJA_ASSIGN_OR_RETURN(size_t count, RunCount(bound[0]));
  JINJA_ASSIGN_OR_RETURN(std::vector<Value> items, Iterate(input, budget));
  for (size_t at = 0; at < items.size(); at += std::min(count, items.size() - at)) {
    const size_t taken = std::min(count, items.size() - at);
    const auto first = items.begin() + static_cast<std::ptrdiff_t>(at);
    std::vector<Value> run(first, first + static_cast<std::ptrdiff_t>(taken));
    if (bound[1] != nullptr && !bound[1]->IsNone()) {
      JINJA_RETURN_IF_ERROR(budget.Charge(count));
      run.resize(count, *bound[1]);
    }
    JINJA_RETURN_IF_ERROR(AppendRun(std::move(run), out, budget));
  }
  return absl::OkStatus();
}

absl::Status Slice(const Value& input, const Arguments& arguments, std::vector<Value>& out,
                   Budget& budget) {
  JINJA_ASSIGN_OR_RETURN(auto bound, Bind(arguments, {"slices", "fill_with"}));
  JINJA_ASSIGN_OR_RETURN(size_t count, RunCount(bound[0]));
  JINJA_RETURN_IF_ERROR(budget.Charge(count));
  JINJA_ASSIGN_OR_RETURN(std::vector<Value> items, Iterate(input, budget));
  const size_t size = items.size() / count;
  const size_t longer = items.size() % count;  // as many runs have one more
  size_t at = 0;
  for (size_t i = 0; i < count; ++i) {
    const size_t taken = size + (i < longer ? 1 : 0);
    const auto first = items.begin() + static_cast<std::ptrdiff_t>(at);
    std::vector<Value> run(first, first + static_cast<std::ptrdiff_t>(taken));
    at += taken;
    if (bound[1] != nullptr && !bound[1]->IsNone() && i >= longer) run.push_back(*bound[1]);
    JINJA_RETURN_IF_ERROR(AppendRun(std::move(run), out, budget));
  }
  return absl::OkStatus();
}

using Generate = absl::Status (*)(const Value&, const Arguments&, std::vector<Value>&, Budget&);

template <Generate Run>
Result Generator(const Value& input, const Arguments& arguments, Budget& budget) {
  std::vector<Value> items;
  absl::Status status = Run(input, arguments, items, budget);
  return MakeGenerator(std::move(items), std::move(status), budget);
}

// The key of an item is the list of the parts that the comma-separated paths name.
Result MultiKey(const Value& item, const Value& paths, bool case_sensitive, Budget& budget) {
  std::vector<Value> parts;
  std::vector<Value> wanted = {paths};
  if (paths.AsText()) {
    wanted.clear();
    for (absl::string_view path : absl::StrSplit(*paths.AsText(), ',')) {
      wanted.push_back(Value::OfText(std::string(path)));
    }
  }
  for (const Value& path : wanted) {
    JINJA_ASSIGN_OR_RETURN(Value part, GetPath(item, path, Value(), budget));
    JINJA_ASSIGN_OR_RETURN(part, SortKey(std::move(part), case_sensitive, budget));
    parts.push_back(std::move(part));
  }
  return MakeSequence(Sequence::Kind::kList, std::move(parts), budget);
}

Result SortFilter(const Value& input, const Arguments& arguments, Budget& budget) {
  JINJA_ASSIGN_OR_RETURN(auto bound, Bind(arguments, {"reverse", "case_sensitive", "attribute"}));
  JINJA_ASSIGN_OR_RETURN(std::vector<Value> items, Iterate(input, budget));
  std::vector<Value> keys;
  for (const Value& item : items) {
    JINJA_ASSIGN_OR_RETURN(Value key, MultiKey(item, OrNone(bound[2]), IsTrue(bound[1]), budget));
    keys.push_back(std::move(key));
  }
  JINJA_RETURN_IF_ERROR(SortBy(items, std::move(keys), IsTrue(bound[0]), budget));
  return MakeSequence(Sequence::Kind::kList, std::move(items), budget);
}

Result DictSortFilter(const Value& input, const Arguments& arguments, Budget& budget) {
  JINJA_ASSIGN_OR_RETURN(auto bound, Bind(arguments, {"case_sensitive", "by", "reverse"}));
  if (const Undefined* undefined = input.As<Undefined>()) return Error(*undefined->reason);
  if (!input.AsDict()) return Error("dictsort needs a dict");
  const std::string by = bound[1] != nullptr && bound[1]->AsText() ? *bound[1]->AsText() : "key";
  if (by != "key" && by != "value") return Error("dictsort sorts by 'key' or by 'value'");
  JINJA_ASSIGN_OR_RETURN(Value view, CallMethod(input, "items", {}, budget));
  std::vector<Value> items = view.AsSequence()->items;
  std::vector<Value> keys;
  for (const auto& [key, value] : input.AsDict()->items) {
    JINJA_ASSIGN_OR_RETURN(Value part,
                           SortKey(by == "key" ? key : value, IsTrue(bound[0]), budget));
    keys.push_back(std::move(part));
  }
  JINJA_RETURN_IF_ERROR(SortBy(items, std::move(keys), IsTrue(bound[2]), budget));
  return MakeSequence(Sequence::Kind::kList, std::move(items), budget);
}

template <bool Max>
Result ExtremeFilter(const Value& input, const Arguments& arguments, Budget& budget) {
  JINJA_ASSIGN_OR_RETURN(auto bound, Bind(arguments, {"case_sensitive", "attribute"}));
  JINJA_ASSIGN_OR_RETURN(std::vector<Value> items, Iterate(input, budget));
  if (items.empty()) return Value::OfUndefined("No aggregated item, sequence was empty.");
  Value best;
  Value best_key;
  for (size_t i = 0; i < items.size(); ++i) {
    JINJA_ASSIGN_OR_RETURN(Value key, GetPath(items[i], OrNone(bound[1]), Value(), budget));
    JINJA_ASSIGN_OR_RETURN(key, SortKey(std::move(key), IsTrue(bound[0]), budget));
    if (i > 0) {
      JINJA_ASSIGN_OR_RETURN(bool better,
                             Max ? Less(best_key, key, budget) : Less(key, best_key, budget));
      if (!better) continue;
    }
    best = items[i];
    best_key = std::move(key);
  }
  return best;
}

Result SumFilter(const Value& input, const Arguments& arguments, Budget& budget) {
  JINJA_ASSIGN_OR_RETURN(auto bound, Bind(arguments, {"attribute", "start"}));
  JINJA_ASSIGN_OR_RETURN(std::vector<Value> items, Iterate(input, budget));
  Value sum = bound[1] == nullptr ? Value::OfInt(0) : *bound[1];
  if (sum.AsText()) return Error("sum: strings are put together by join");
  for (const Value& item : items) {
    JINJA_ASSIGN_OR_RETURN(Value part, GetPath(item, OrNone(bound[0]), Value(), budget));
    JINJA_ASSIGN_OR_RETURN(sum, Add(sum, part, budget));
  }
  return sum;
}

constexpr std::pair<std::string_view, FilterFunction> kFilters[] = {
    {"batch", Generator<Batch>},
    {"dictsort", DictSortFilter},
    {"first", FirstFilter},
    {"items", ItemsFilter},
    {"join", JoinFilter},
    {"last", LastFilter},
    {"list", ListFilter},
    {"map", Generator<Map>},
    {"max", ExtremeFilter<true>},
    {"min", ExtremeFilter<false>},
    {"reject", Generator<Select<false, false>>},
    {"rejectattr", Generator<Select<false, true>>},
    {"reverse", ReverseFilter},
    {"select", Generator<Select<true, false>>},
    {"selectattr", Generator<Select<true, true>>},
    {"slice", Generator<Slice>},
    {"sort", SortFilter},
    {"sum", SumFilter},
    {"unique", Generator<Unique>},
};

}  // namespace

absl::StatusOr<Value> GetPath(const Value& item, const Value& path, const Value& fallback,
                              Budget& budget) {
  if (path.IsNone()) return item;
  std::vector<Value> keys;
  if (path.AsInt()) {
    keys.push_back(path);
  } else if (!path.AsText()) {
    return Error("an attribute must be a name or a number");
  } else {
    for (absl::string_view part : absl::StrSplit(*path.AsText(), '.')) {
      int64_t index = 0;
      const bool digits = !part.empty() && part.find_first_not_of("0123456789") == part.npos;
      const bool number = digits && absl::SimpleAtoi(part, &index);
      keys.push_back(number ? Value::OfInt(index) : Value::OfText(std::string(part)));
    }
  }
  Value value = item;
  for (const Value& key : keys) {
    JINJA_ASSIGN_OR_RETURN(value, GetItem(value, key, budget));
    if (value.IsUndefined() && !fallback.IsNone()) value = fallback;
  }
  return value;
}

absl::Status SortBy(std::vector<Value>& items, std::vector<Value> keys, bool reverse,
                    Budget& budget) {
  std::vector<size_t> order(items.size());
  std::iota(order.begin(), order.end(), size_t{0});
  // After an error nothing is less than anything, which ends the sort.
  absl::Status status;
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    if (!status.ok()) return false;
    auto less = reverse ? Less(keys[b], keys[a], budget) : Less(keys[a], keys[b], budget);
    if (!less.ok()) status = less.status();
    return less.ok() && *less;
  });
  JINJA_RETURN_IF_ERROR(status);
  std::vector<Value> sorted;
  for (size_t at : order) sorted.push_back(items[at]);
  items = std::move(sorted);
  return absl::OkStatus();
}

FilterFunction FindListFilter(std::string_view name) {
  for (const auto& [known, function] : kFilters) {
    if (known == name) return function;
  }
  return nullptr;
}

}  // namespace nsa::engine::jinja
