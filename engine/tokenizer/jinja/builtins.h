#ifndef NSA_ENGINE_TOKENIZER_JINJA_BUILTINS_H_
#define NSA_ENGINE_TOKENIZER_JINJA_BUILTINS_H_

#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/tokenizer/jinja/value.h"

namespace nsa::engine::jinja {

struct Arguments {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> named;
};

/// The argument for each of `names`, null where not given. An error for one too many, twice given
/// or of another name.
absl::StatusOr<std::vector<const Value*>> Bind(const Arguments& arguments,
                                               std::initializer_list<std::string_view> names);

using FilterFunction = absl::StatusOr<Value> (*)(const Value&, const Arguments&, Budget&);
using TestFunction = absl::StatusOr<bool> (*)(const Value&, const Arguments&, Budget&);
/// Null if not known.
FilterFunction FindFilter(std::string_view name);
TestFunction FindTest(std::string_view name);

/// a.name: methods before items, as jinja2 does. An undefined value if there is none.
absl::StatusOr<Value> GetAttribute(const Value& value, std::string_view name, Budget& budget);
/// a[key]: items before methods.
absl::StatusOr<Value> GetItem(const Value& value, const Value& key, Budget& budget);
/// a[start:stop:step]; None for one not given.
absl::StatusOr<Value> GetSlice(const Value& value, const Value& start, const Value& stop,
                               const Value& step, Budget& budget);
bool HasMethod(const Value& value, std::string_view name);
absl::StatusOr<Value> CallMethod(const Value& self, std::string_view name,
                                 const Arguments& arguments, Budget& budget);
/// The functions every template sees: raise_exception, range, namespace, dict, strftime_now.
std::vector<std::string_view> GlobalFunctions();
absl::StatusOr<Value> CallGlobal(std::string_view name, const Arguments& arguments, Budget& budget);
/// Python's `part in whole`.
absl::StatusOr<bool> Contains(const Value& whole, const Value& part, Budget& budget);
/// Python's a + b.
absl::StatusOr<Value> Add(const Value& a, const Value& b, Budget& budget);
/// Python's a % b.
absl::StatusOr<Value> Modulo(const Value& a, const Value& b, Budget& budget);

}  // namespace nsa::engine::jinja

#endif  // NSA_ENGINE_TOKENIZER_JINJA_BUILTINS_H_
