#ifndef NSA_ENGINE_TOKENIZER_JINJA_FORMAT_SPEC_H_
#define NSA_ENGINE_TOKENIZER_JINJA_FORMAT_SPEC_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "engine/tokenizer/jinja/value.h"

namespace nsa::engine::jinja {

inline constexpr int64_t kMaxFormatWidth = 1'000'000;
inline constexpr int64_t kMaxFormatPrecision = 1'000;

/// Python's format specification: [[fill]align][sign][#][0][width][grouping][.precision][type]
struct Spec {
  std::string fill = " ";
  char align = '\0';
  char sign = '-';
  bool alternate = false;
  int64_t width = 0;
  char grouping = '\0';
  std::optional<int64_t> precision;
  char type = '\0';
};

/// Takes the digits in front of `text` away; an error for a number over `max`.
absl::StatusOr<int64_t> TakeNumber(std::string_view& text, int64_t max);
/// Takes the first character away if it is one of `characters`.
bool TakeAny(std::string_view& text, std::string_view characters, char& out);

/// `sign` and `body` filled up to the width; `align` where the specification has none.
std::string Pad(const Spec& spec, std::string_view sign, std::string_view body, char align);
absl::StatusOr<std::string> FormatInteger(const Spec& spec, int64_t number);
absl::StatusOr<std::string> FormatFloat(const Spec& spec, double number);
absl::StatusOr<std::string> FormatString(const Spec& spec, std::string_view text);
/// Python's format(value, specification).
absl::StatusOr<std::string> FormatValue(const Value& value, std::string_view specification,
                                        Budget& budget);

}  // namespace nsa::engine::jinja

#endif  // NSA_ENGINE_TOKENIZER_JINJA_FORMAT_SPEC_H_
