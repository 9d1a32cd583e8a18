#ifndef NSA_ENGINE_STEP_BUDGET_H_
#define NSA_ENGINE_STEP_BUDGET_H_

#include <cstdint>

#include "absl/time/time.h"

namespace nsa::engine {

/// How many prompt tokens a step may take beside running streams, so that none of these waits
/// longer than a target for its next token. Learns from the steps that were: a step is taken to
/// cost a part for its decode rows and a part for each prompt token, both as they lately were.
/// Chunks never show in the output, only in its pace (row invariance). Engine thread.
class StepBudget {
 public:
  /// `max_tokens`: of a step, whatever its rows. `target`: of a step with decode rows; infinite:
  /// none.
  StepBudget(int64_t max_tokens, absl::Duration target)
      : max_tokens_(max_tokens), target_(target) {}

  /// Prompt tokens for a step that has `num_decode_rows`: at least kMinChunk, so that prompts get
  /// on however slow the machine, and at most what max_tokens leaves.
  int64_t PromptTokens(int64_t num_decode_rows) const;

  /// Tells of a step that has ended.
  void Observe(int64_t num_decode_rows, int64_t num_prompt_tokens, absl::Duration duration);

  static constexpr int64_t kMinChunk = 16;

 private:
  int64_t max_tokens_;
  absl::Duration target_;
  double decode_seconds_ = 0;        // of a step without prompt tokens; 0: none was seen
  double prompt_token_seconds_ = 0;  // 0: none was seen
};

}  // namespace nsa::engine

#endif  // NSA_ENGINE_STEP_BUDGET_H_
