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

double UniformDraw(uint64_t seed, uint64_t step) {
  const auto mix = [](uint64_t z) {
    z += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
  };
  return static_cast<double>(mix(mix(seed) ^ step) >> 11) * 0x1p-53;
}

void AdjustLogits(const SampleParams& p) {
  for (int64_t i = 0; i < p.num_counts; ++i) {
    const TokenCount& count = p.counts[i];
    float& logit = LogitOf(p, count.token_id);
    if (count.num_in_prompt + count.num_generated > 0) {
      logit = logit > 0 ? logit / p.repetition_penalty : logit * p.repetition_penalty;
    }
    if (count.num_generated > 0) {
      logit -= p.frequency_penalty * static_cast<float>(count.num_generated) + p.presence_penalty;
    }
  }
  for (int64_t i = 0; i < p.num_biases; ++i) {
    LogitOf(p, p.biases[i].token_id) += p.biases[i].bias;
  }
  if (p.allowed != nullptr) KeepAllowedOnly(p);
  for (int64_t i = 0; i < p.num_banned; ++i) LogitOf(p, p.banned[i]) = kBanned;
}

}  // namespace nsa::kernels
