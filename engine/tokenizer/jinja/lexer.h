#ifndef NSA_ENGINE_TOKENIZER_JINJA_LEXER_H_
#define NSA_ENGINE_TOKENIZER_JINJA_LEXER_H_

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace nsa::engine::jinja {

struct Token {
  enum class Kind {
    kText,  // to be printed as it is
    kBlockBegin,
    kBlockEnd,
    kPrintBegin,
    kPrintEnd,
    kName,
    kString,   // unescaped
    kInteger,  // without underscores
    kFloat,
    kOperator,
    kEnd,
  };
  Kind kind;
  std::string text;
  int line;  // from 1
};

/// Cuts a template up, white space control included ("-", "+", trim_blocks, lstrip_blocks, one
/// newline at the end dropped, line ends made "\n"). The last token is kEnd. `source` is valid
/// UTF-8.
absl::StatusOr<std::vector<Token>> Lex(std::string_view source);

}  // namespace nsa::engine::jinja

#endif  // NSA_ENGINE_TOKENIZER_JINJA_LEXER_H_
