#ifndef NSA_ENGINE_SELF_CHECK_H_
#define NSA_ENGINE_SELF_CHECK_H_

#include <cstdint>

#include "absl/status/status.h"
#include "engine/loaded_model.h"

namespace nsa::engine {

/// Runs a short greedy completion of a loaded model twice, its prompt in one chunk and in several,
/// before anybody relies on it: Internal where logits are not finite, or where the two differ by
/// more than rounding. Writes to the first pages of the cache, which nobody uses yet.
absl::Status SelfCheck(LoadedModel& model, int64_t max_step_tokens);

}  // namespace nsa::engine

#endif  // NSA_ENGINE_SELF_CHECK_H_
