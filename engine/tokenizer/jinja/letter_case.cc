#include "engine/tokenizer/jinja/letter_case.h"

#include "engine/tokenizer/jinja/python_text.h"

namespace nsa::engine::jinja {

void AppendUpper(uint32_t code, std::string& out) {
  AppendUtf8(code >= 'a' && code <= 'z' ? code - 32 : code, out);
}

void AppendLower(uint32_t code, std::string& out) {
  AppendUtf8(code >= 'A' && code <= 'Z' ? code + 32 : code, out);
}

bool IsCased(uint32_t code) { return (code >= 'a' && code <= 'z') || (code >= 'A' && code <= 'Z'); }

}  // namespace nsa::engine::jinja
