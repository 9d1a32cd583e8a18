#ifndef NSA_ENGINE_TOKENIZER_JINJA_LETTER_CASE_H_
#define NSA_ENGINE_TOKENIZER_JINJA_LETTER_CASE_H_

#include <cstdint>
#include <string>

namespace nsa::engine::jinja {

/// Unicode's case mapping of a character by itself, as Python's upper(), title() and lower() have
/// it.
void AppendUpper(uint32_t code_point, std::string& out);
void AppendTitle(uint32_t code_point, std::string& out);
void AppendLower(uint32_t code_point, std::string& out);
/// A letter that has case.
bool IsCased(uint32_t code_point);

}  // namespace nsa::engine::jinja

#endif  // NSA_ENGINE_TOKENIZER_JINJA_LETTER_CASE_H_
