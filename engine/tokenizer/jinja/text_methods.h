#ifndef NSA_ENGINE_TOKENIZER_JINJA_TEXT_METHODS_H_
#define NSA_ENGINE_TOKENIZER_JINJA_TEXT_METHODS_H_

#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "engine/tokenizer/jinja/builtins.h"
#include "engine/tokenizer/jinja/value.h"

namespace nsa::engine::jinja {

bool HasTextMethod(std::string_view name);
/// Python's str methods. What a method makes of safe text is safe, and what it puts in is escaped.
absl::StatusOr<Value> CallTextMethod(const Value& self, std::string_view name,
                                     const Arguments& arguments, Budget& budget);

/// For HTML, as markupsafe does; safe text stays as it is.
absl::StatusOr<Value> Escape(const Value& value, Budget& budget);

/// str.format: `self` with its fields filled.
absl::StatusOr<Value> FormatText(const Value& self, const Arguments& arguments, Budget& budget);
/// self % values.
absl::StatusOr<Value> FormatPercent(const Value& self, const Value& values, Budget& budget);

}  // namespace nsa::engine::jinja

#endif  // NSA_ENGINE_TOKENIZER_JINJA_TEXT_METHODS_H_
