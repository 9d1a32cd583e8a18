#ifndef NSA_ENGINE_TOKENIZER_JINJA_LETTER_CASE_H_
#define NSA_ENGINE_TOKENIZER_JINJA_LETTER_CASE_H_

#include <cstdint>
#include <string>

namespace nsa::engine::jinja {

/// Unicode's simple case mapping (one code point to one). Python also maps some letters to two
/// or three and treats a final sigma apart; those keep their simple mapping here.
void AppendUpper(uint32_t code_point, std::string& out);
void AppendLower(uint32_t code_point, std::string& out);
/// A letter that has case.
bool IsCased(uint32_t code_point);

}  // namespace nsa::engine::jinja

#endif  // NSA_ENGINE_TOKENIZER_JINJA_LETTER_CASE_H_
