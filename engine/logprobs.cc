#include "engine/logprobs.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <vector>

namespace nsa::engine {
namespace {

/// log Σ exp(logit − best).
double LogSum(std::span<const float> logits, double best) {
  double sum = 0;
  for (const float logit : logits) sum += std::exp(double{logit} - best);
  return std::log(sum);
}

}  // namespace

TokenLogprobs LogprobsOf(std::span<const float> logits, int32_t token_id, int32_t num_top,
                         const Tokenizer& tokenizer) {
  const double best = *std::ranges::max_element(logits);
  const double log_sum = LogSum(logits, best);
  const auto logit_of = [&](int32_t id) { return logits[static_cast<size_t>(id)]; };
  const auto logprob_of = [&](int32_t id) {
    return TokenLogprob{.token_id = id,
                        .logprob = static_cast<float>(double{logit_of(id)} - best - log_sum),
                        .bytes = tokenizer.TokenBytes(id)};
  };
  const auto before = [&](int32_t a, int32_t b) {
    return logit_of(a) != logit_of(b) ? logit_of(a) > logit_of(b) : a < b;
  };
  TokenLogprobs result;
  result.token = logprob_of(token_id);
  // The best so far, in order; few tokens get past the last of them.
  std::vector<int32_t> top;
  result.rank = 1;
  const auto most = static_cast<size_t>(num_top);
  for (int32_t id = 0; id < static_cast<int32_t>(logits.size()); ++id) {
    if (before(id, token_id)) ++result.rank;
    if (most == 0 || (top.size() == most && !before(id, top.back()))) continue;
    if (top.size() == most) top.pop_back();
    top.insert(std::ranges::upper_bound(top, id, before), id);
  }
  for (const int32_t id : top) result.top.push_back(logprob_of(id));
  return result;
}

}  // namespace nsa::engine
