#include "engine/step_budget.h"

#include <algorithm>

namespace nsa::engine {
namespace {

// Weight of the newest step. Contexts grow slowly, so a few steps' average is what comes next.
constexpr double kNewest = 0.25;
// The first chunk beside streams, before any has been measured.
constexpr int64_t kFirstChunk = 64;

void Learn(double seconds, double& average) {
  average = average == 0 ? seconds : average + kNewest * (seconds - average);
}

}  // namespace

int64_t StepBudget::PromptTokens(int64_t num_decode_rows) const {
  const int64_t left = std::max<int64_t>(0, max_tokens_ - num_decode_rows);
  if (num_decode_rows == 0 || target_ == absl::InfiniteDuration()) return left;
  int64_t chunk = kFirstChunk;
  if (prompt_token_seconds_ > 0) {
    const double seconds = absl::ToDoubleSeconds(target_) - decode_seconds_;
    // Far beyond any step, so that the quotient fits an integer.
    chunk = static_cast<int64_t>(std::clamp(seconds / prompt_token_seconds_, 0.0, 1e9));
  }
  return std::min(left, std::max(chunk, kMinChunk));
}

void StepBudget::Observe(int64_t num_decode_rows, int64_t num_prompt_tokens,
                         absl::Duration duration) {
  const double seconds = absl::ToDoubleSeconds(duration);
  if (num_prompt_tokens == 0) {
    if (num_decode_rows > 0) Learn(seconds, decode_seconds_);
    return;
  }
  if (num_prompt_tokens < kMinChunk) return;  // what a step costs by itself would dominate
  const double decode = num_decode_rows > 0 ? std::min(decode_seconds_, seconds) : 0;
  // Never nothing, which would say that no step was seen.
  Learn(std::max(1e-9, (seconds - decode) / static_cast<double>(num_prompt_tokens)),
        prompt_token_seconds_);
}

}  // namespace nsa::engine
