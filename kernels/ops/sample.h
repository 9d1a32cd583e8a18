#ifndef NSA_KERNELS_OPS_SAMPLE_H_
#define NSA_KERNELS_OPS_SAMPLE_H_

#include <cstdint>

namespace nsa::kernels {

/// How often a token stands in the prompt or among the generated tokens of one sequence.
struct TokenCount {
  int32_t token_id = 0;
  int32_t num_in_prompt = 0;
  int32_t num_generated = 0;
};

struct LogitBias {
  int32_t token_id = 0;
  float bias = 0;
};

/// In the place of a token: none is left to choose, or some logit is NaN.
inline constexpr int32_t kNoToken = -1;
inline constexpr int32_t kLogitsNan = -2;

/// Chooses one token for one row of logits. Order of the steps, as the field does it: repetition
/// penalty, frequency and presence penalty (generated tokens only), logit_bias, banned tokens,
/// temperature, top_k, top_p, min_p, draw. `temperature` 0 is argmax; ties go to the lower id.
/// The draw uses a counter-based generator keyed by (seed, step), so that it depends on nothing
/// else.
struct SampleParams {
  float* logits = nullptr;  // [vocabulary_size]; overwritten
  int64_t vocabulary_size = 0;
  const TokenCount* counts = nullptr;  // [num_counts], each token once; may be null
  int64_t num_counts = 0;
  const LogitBias* biases = nullptr;  // [num_biases]
  int64_t num_biases = 0;
  const int32_t* banned = nullptr;  // [num_banned] ids whose logit becomes −inf
  int64_t num_banned = 0;
  const int32_t* allowed = nullptr;  // [num_allowed] the only ids left, or null for all
  int64_t num_allowed = 0;
  float temperature = 1;
  float top_p = 1;
  float min_p = 0;
  int32_t top_k = 0;  // 0: off
  float repetition_penalty = 1;
  float presence_penalty = 0;
  float frequency_penalty = 0;
  uint64_t seed = 0;
  uint64_t step = 0;            // index of the generated token
  int32_t* token_id = nullptr;  // [1] out: the token, kNoToken or kLogitsNan
};

}  // namespace nsa::kernels

#endif  // NSA_KERNELS_OPS_SAMPLE_H_
