#ifndef NSA_ENGINE_TOKENIZER_JINJA_FILTERS_H_
#define NSA_ENGINE_TOKENIZER_JINJA_FILTERS_H_

#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/tokenizer/jinja/builtins.h"
#include "engine/tokenizer/jinja/value.h"

namespace nsa::engine::jinja {

/// The filters of list_filters.cc by name; null if not known.
FilterFunction FindListFilter(std::string_view name);
absl::StatusOr<Value> ToJsonFilter(const Value& input, const Arguments& arguments, Budget& budget);

/// item.a.0.b, for the filters that take a path; None is the item itself. With a `fallback` that is
/// not None: it stands for what is not there.
absl::StatusOr<Value> GetPath(const Value& item, const Value& path, const Value& fallback,
                              Budget& budget);
/// Sorts `items` by the values in `keys`, as many; equal ones keep their order.
absl::Status SortBy(std::vector<Value>& items, std::vector<Value> keys, bool reverse,
                    Budget& budget);

}  // namespace nsa::engine::jinja

#endif  // NSA_ENGINE_TOKENIZER_JINJA_FILTERS_H_
