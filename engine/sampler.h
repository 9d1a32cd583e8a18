#ifndef NSA_ENGINE_SAMPLER_H_
#define NSA_ENGINE_SAMPLER_H_

#include <cstdint>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "engine/request.h"
#include "engine/tokenizer/tokenizer.h"
#include "kernels/backend.h"

namespace nsa::engine {

/// One request's sampling state: what its parameters ask of the next token, given those so far.
/// The draw depends on the seed and the token's index alone. Engine thread.
class Sampler {
 public:
  /// `stop_ids` are banned until min_tokens have come.
  Sampler(const SamplingParams& params, const std::vector<int32_t>& prompt,
          const std::vector<int32_t>& stop_ids, const Tokenizer& tokenizer, uint64_t seed);

  /// The next token from `logits` [vocabulary_size] (overwritten); −1 where they hold a NaN or
  /// nothing is allowed. `allowed_bits` [ceil(vocabulary_size / 32)]: bit id % 32 of word id / 32
  /// says whether the id is allowed; null: all.
  int32_t Sample(kernels::Backend& backend, float* logits, int64_t vocabulary_size,
                 const uint32_t* allowed_bits = nullptr);

  /// Tells the sampler what was chosen.
  void Accept(int32_t token_id);

 private:
  void BanForNextToken(std::vector<int32_t>& banned) const;
  /// The ids of set bits that are also in allowed_token_ids, where these are given.
  void AllowSetBits(const uint32_t* bits, int64_t vocabulary_size);

  SamplingParams params_;
  std::vector<int32_t> stop_ids_;
  std::vector<std::vector<int32_t>>
      bad_sequences_;  // token ids whose last one is banned after the others
  std::vector<kernels::LogitBias> biases_;
  std::vector<int32_t> generated_;
  std::vector<int32_t> allowed_;  // for the next token, where bits say which
  uint64_t seed_;
  bool counts_wanted_;
  std::vector<kernels::TokenCount> counts_;
  absl::flat_hash_map<int32_t, size_t> count_index_;
};

}  // namespace nsa::engine

#endif  // NSA_ENGINE_SAMPLER_H_
