#ifndef NSA_ENGINE_LOGPROBS_H_
#define NSA_ENGINE_LOGPROBS_H_

#include <cstdint>
#include <span>

#include "engine/request.h"
#include "engine/tokenizer/tokenizer.h"

namespace nsa::engine {

/// What the model's own distribution, the softmax of `logits` [vocabulary_size] before penalties,
/// biases, bans and temperature, says of `token_id`, and of the `num_top` likeliest tokens; ties go
/// to the lower id. Sums are doubles in the order of ids, so that logits alone decide about the
/// bits. `logits` hold no NaN.
TokenLogprobs LogprobsOf(std::span<const float> logits, int32_t token_id, int32_t num_top,
                         const Tokenizer& tokenizer);

}  // namespace nsa::engine

#endif  // NSA_ENGINE_LOGPROBS_H_
