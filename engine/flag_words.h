#ifndef NSA_ENGINE_FLAG_WORDS_H_
#define NSA_ENGINE_FLAG_WORDS_H_

#include <cstddef>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace nsa::engine {

/// Sets `target` to the enumerator that `word` names, where names[i] is that of value i;
/// InvalidArgument, with the flag and all names, where it names none.
template <typename Enum, size_t kCount>
absl::Status ReadFlagWord(std::string_view flag, std::string_view word,
                          const std::string_view (&names)[kCount], Enum& target) {
  std::string expected;
  for (size_t i = 0; i < kCount; ++i) {
    if (names[i] == word) {
      target = static_cast<Enum>(i);
      return absl::OkStatus();
    }
    if (i > 0) expected += i + 1 < kCount ? ", " : " or ";
    expected += names[i];
  }
  return absl::InvalidArgumentError(
      absl::StrCat("--", std::string(flag), " is '", std::string(word), "', expected ", expected));
}

}  // namespace nsa::engine

#endif  // NSA_ENGINE_FLAG_WORDS_H_
