#ifndef NSA_ENGINE_TOKENIZER_JINJA_STATUS_H_
#define NSA_ENGINE_TOKENIZER_JINJA_STATUS_H_

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"

#define JINJA_RETURN_IF_ERROR(expression)                                                  \
  do {                                                                                     \
    if (absl::Status jinja_status = (expression); !jinja_status.ok()) return jinja_status; \
  } while (false)

#define JINJA_JOIN_INNER(a, b) a##b
#define JINJA_JOIN(a, b) JINJA_JOIN_INNER(a, b)
#define JINJA_ASSIGN_OR_RETURN(target, expression) \
  JINJA_ASSIGN_OR_RETURN_AS(JINJA_JOIN(jinja_result_, __LINE__), target, expression)
#define JINJA_ASSIGN_OR_RETURN_AS(name, target, expression) \
  auto name = (expression);                                 \
  if (!name.ok()) return name.status();                     \
  target = std::move(*name)

namespace nsa::engine::jinja {

/// A template's error; whoever knows the line puts it in front.
template <typename... Parts>
absl::Status Error(const Parts&... parts) {
  return absl::InvalidArgumentError(absl::StrCat(parts...));
}

}  // namespace nsa::engine::jinja

#endif  // NSA_ENGINE_TOKENIZER_JINJA_STATUS_H_
