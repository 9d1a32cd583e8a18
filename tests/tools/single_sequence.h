#ifndef NSA_TESTS_TOOLS_SINGLE_SEQUENCE_H_
#define NSA_TESTS_TOOLS_SINGLE_SEQUENCE_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/loaded_model.h"

namespace nsa::tools {

/// Sequences run straight on a model's runner, each on pages of its own: no scheduler, no threads
/// but the backend's.
class SingleSequence {
 public:
  /// `model` outlives this. Pages [first_page, first_page + num_pages) of its cache are used.
  SingleSequence(engine::LoadedModel* model, int32_t first_page, int32_t num_pages);

  /// Told the logits of a token: its position and [vocabulary_size] floats.
  using LogitsConsumer = std::function<void(int64_t position, float* logits)>;

  /// Appends tokens in chunks of at most `chunk` and hands out the logits of positions ≥
  /// `logits_from`; a consumer of the last token's alone passes num_tokens − 1.
  void Append(const std::vector<int32_t>& tokens, int64_t chunk, int64_t logits_from,
              const LogitsConsumer& consumer);

  /// Appends one token and gives the token with the highest logit after it.
  int32_t Step(int32_t token);

  int64_t num_tokens() const { return num_tokens_; }
  engine::BatchEntry EntryFor(std::span<const int32_t> tokens, int32_t num_logit_rows) const;
  void Advance(int64_t num_tokens) { num_tokens_ += num_tokens; }

 private:
  engine::LoadedModel* model_;
  std::vector<int32_t> pages_;
  int64_t num_tokens_ = 0;
};

/// Engine options from the flags --model, --attention, --num_selected_blocks, --max_step_tokens,
/// --num_threads, with a cache for `num_sequences` sequences of `max_context` tokens each.
absl::StatusOr<engine::EngineOptions> OptionsFromFlags(int64_t max_context, int num_sequences);

/// int32 little endian ids.
absl::StatusOr<std::vector<int32_t>> ReadTokens(const std::string& path);

int32_t ArgMax(const float* logits, int64_t size);

}  // namespace nsa::tools

#endif  // NSA_TESTS_TOOLS_SINGLE_SEQUENCE_H_
