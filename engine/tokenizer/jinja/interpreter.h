#ifndef NSA_ENGINE_TOKENIZER_JINJA_INTERPRETER_H_
#define NSA_ENGINE_TOKENIZER_JINJA_INTERPRETER_H_

#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/tokenizer/jinja/parser.h"
#include "engine/tokenizer/jinja/value.h"

namespace nsa::engine::jinja {

/// What a template prints, given its variables. InvalidArgument names the line. Steps, depth and
/// sizes are bounded (value.h); `body` is not changed, so that threads may share it.
absl::StatusOr<std::string> Interpret(const Body& body,
                                      std::vector<std::pair<std::string, Value>> variables);

}  // namespace nsa::engine::jinja

#endif  // NSA_ENGINE_TOKENIZER_JINJA_INTERPRETER_H_
