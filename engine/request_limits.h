#ifndef NSA_ENGINE_REQUEST_LIMITS_H_
#define NSA_ENGINE_REQUEST_LIMITS_H_

#include <cstdint>

#include "absl/status/status.h"
#include "engine/engine.h"
#include "engine/request.h"

/// What a loaded model lets a request ask for. Pure functions.
namespace nsa::engine {

/// InvalidArgument that names field, value and range: token ids, lengths, attention.
/// `max_selected_blocks`: the largest n that the runner has room for.
absl::Status CheckRequest(const Request& request, const ModelInfo& info,
                          int32_t max_selected_blocks);

/// Tokens that the completion of an accepted request may have: max_tokens, or what the context
/// leaves.
int64_t CompletionLimit(const Request& request, const ModelInfo& info);

}  // namespace nsa::engine

#endif  // NSA_ENGINE_REQUEST_LIMITS_H_
