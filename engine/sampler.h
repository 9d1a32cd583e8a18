#ifndef NSA_ENGINE_SAMPLER_H_
#define NSA_ENGINE_SAMPLER_H_

#include <cstdint>
#include <span>
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
  /// What one token's parameters point to beside the sampler's own lists.
  struct Lists {
    std::vector<int32_t> banned, allowed;
    std::vector<kernels::TokenCount> counts;
  };
  /// Tokens before the one to be drawn that Accept has not been told of: some that nobody knows
  /// yet, then drafted ones.
  struct Pending {
    int64_t num_unknown = 0;
    std::span<const int32_t> drafted = {};
  };

  /// `stop_ids` are banned until min_tokens have come.
  Sampler(const SamplingParams& params, const std::vector<int32_t>& prompt,
          const std::vector<int32_t>& stop_ids, const Tokenizer& tokenizer, uint64_t seed);

  /// Fills in what the next token behind `pending` is drawn by; valid until Accept, or the lists
  /// change. `allowed_bits` [ceil(params.vocabulary_size / 32)]: bit id % 32 of word id / 32 says
  /// whether the id is allowed; null: all. False where these leave nothing.
  bool FillIn(kernels::SampleParams& params, Lists& lists, const Pending& pending,
              const uint32_t* allowed_bits) const;
  /// Whether that depends on which tokens came before, and not on their number alone.
  bool depends_on_tokens() const { return counts_wanted_ || !bad_sequences_.empty(); }

  /// Tells the sampler what was chosen.
  void Accept(int32_t token_id);

 private:
  void BanForNextToken(const Pending& pending, std::vector<int32_t>& banned) const;
  /// The ids of set bits that are also in allowed_token_ids, where these are given.
  void AllowSetBits(const uint32_t* bits, int64_t vocabulary_size,
                    std::vector<int32_t>& allowed) const;
  void CountDrafted(std::span<const int32_t> drafted,
                    std::vector<kernels::TokenCount>& counts) const;
  int64_t IndexBehind(const Pending& pending) const {
    return std::ssize(generated_) + pending.num_unknown + std::ssize(pending.drafted);
  }

  SamplingParams params_;
  std::vector<int32_t> stop_ids_;
  std::vector<std::vector<int32_t>>
      bad_sequences_;  // token ids whose last one is banned after the others
  std::vector<kernels::LogitBias> biases_;
  std::vector<int32_t> generated_;
  uint64_t seed_;
  bool counts_wanted_;
  std::vector<kernels::TokenCount> counts_;
  absl::flat_hash_map<int32_t, size_t> count_index_;
};

}  // namespace nsa::engine

#endif  // NSA_ENGINE_SAMPLER_H_
