#ifndef NSA_ENGINE_TOKENIZER_ONIGURUMA_H_
#define NSA_ENGINE_TOKENIZER_ONIGURUMA_H_

#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace nsa::engine {

/// A pattern of tokenizer.json, which `tokenizers` gives to Oniguruma, in PCRE2's words: white
/// space is Unicode's White_Space (PCRE2's own \s also takes U+180E), \h a hexadecimal digit,
/// \uHHHH a character, and ^ and $ are the ends of a line. Unimplemented names what means something
/// else to the two and is not rewritten.
absl::StatusOr<std::string> ToPcre2(std::string_view pattern);

/// `text` as a pattern that matches it alone.
std::string QuotePattern(std::string_view text);

}  // namespace nsa::engine

#endif  // NSA_ENGINE_TOKENIZER_ONIGURUMA_H_
