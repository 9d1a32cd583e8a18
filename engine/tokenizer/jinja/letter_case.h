#ifndef NSA_ENGINE_TOKENIZER_JINJA_LETTER_CASE_H_
#define NSA_ENGINE_TOKENIZER_JINJA_LETTER_CASE_H_

#include <cstdint>
#include <string>

namespace nsa::engine::jinja {

/// Unicode's case mapping as Python's upper() and lower() have it, but for two things: a sigma at
/// the end of a word is lowered as any other, and title case is upper case ("Ǆ", not "ǅ").
void AppendUpper(uint32_t code_point, std::string& out);
void AppendLower(uint32_t code_point, std::string& out);
/// A letter that has case.
bool IsCased(uint32_t code_point);

}  // namespace nsa::engine::jinja

#endif  // NSA_ENGINE_TOKENIZER_JINJA_LETTER_CASE_H_
