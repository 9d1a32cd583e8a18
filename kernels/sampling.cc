#include "kernels/sampling.h"

#include <algorithm>
#include <limits>
#include <vector>

#include "kernels/check.h"

namespace nsa::kernels {
namespace {

constexpr float kBanned = -std::numeric_limits<float>::infinity();

float& LogitOf(const SampleParams& p, int32_t token_id) {
  NSA_CHECK(token_id >= 0 && token_id < p.vocabulary_size);
  return p.logits[token_id];
}

void KeepAllowedOnly(const SampleParams& p) {
  std::vector<float> kept(static_cast<size_t>(p.num_allowed));
  for (size_t i = 0; i < kept.size(); ++i) kept[i] = LogitOf(p, p.allowed[i]);
  std::fill_n(p.logits, p.vocabulary_size, kBanned);
  for (size_t i = 0; i < kept.size(); ++i) p.logits[p.allowed[i]] = kept[i];
}

}  // namespace

void AdjustLogits(const SampleParams& p) {
  for (int64_t i = 0; i < p.num_counts; ++i) {
    float& logit = LogitOf(p, p.counts[i].token_id);
    logit = Penalise(p, p.counts[i], logit);
  }
  for (int64_t i = 0; i < p.num_biases; ++i) {
    LogitOf(p, p.biases[i].token_id) += p.biases[i].bias;
  }
  if (p.allowed != nullptr) KeepAllowedOnly(p);
  for (int64_t i = 0; i < p.num_banned; ++i) LogitOf(p, p.banned[i]) = kBanned;
}

}  // namespace nsa::kernels
