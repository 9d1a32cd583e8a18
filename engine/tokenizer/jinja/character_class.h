#ifndef NSA_ENGINE_TOKENIZER_JINJA_CHARACTER_CLASS_H_
#define NSA_ENGINE_TOKENIZER_JINJA_CHARACTER_CLASS_H_

#include <cstdint>
#include <string>
#include <string_view>

namespace nsa::engine::jinja {

/// Python's str.isalnum() and its like over valid UTF-8, by Unicode's general categories. False for
/// an empty text.
bool IsAlphanumeric(std::string_view text);
bool IsAlphabetic(std::string_view text);
bool IsDecimal(std::string_view text);
bool IsDigits(std::string_view text);
bool IsBlank(std::string_view text);
bool IsLower(std::string_view text);
bool IsUpper(std::string_view text);
/// What repr() shows as it is.
bool IsPrintable(uint32_t code_point);
/// True if a letter between the two is the last of a word that has others: a sigma there is final.
bool EndsWord(std::string_view before, std::string_view after);
std::string SwapCase(std::string_view text);

}  // namespace nsa::engine::jinja

#endif  // NSA_ENGINE_TOKENIZER_JINJA_CHARACTER_CLASS_H_
