#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "kernels/reference/reference.h"

namespace nsa::kernels::reference {
namespace {

constexpr float kBanned = -std::numeric_limits<float>::infinity();

/// A uniform number in [0, 1) that depends on (seed, step) alone: two rounds of the splitmix64
/// finaliser (Steele, Lea and Flood).
double Uniform(uint64_t seed, uint64_t step) {
  const auto mix = [](uint64_t z) {
    z += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
  };
  return static_cast<double>(mix(mix(seed) ^ step) >> 11) * 0x1p-53;
}

void ApplyPenalties(const SampleParams& p) {
  for (int64_t i = 0; i < p.num_counts; ++i) {
    const TokenCount& count = p.counts[i];
    float& logit = p.logits[count.token_id];
    if (count.num_in_prompt + count.num_generated > 0) {
      logit = logit > 0 ? logit / p.repetition_penalty : logit * p.repetition_penalty;
    }
    if (count.num_generated > 0) {
      logit -= p.frequency_penalty * static_cast<float>(count.num_generated) + p.presence_penalty;
    }
  }
  for (int64_t i = 0; i < p.num_biases; ++i) p.logits[p.biases[i].token_id] += p.biases[i].bias;
}

void ApplyMasks(const SampleParams& p) {
  if (p.allowed != nullptr) {
    std::vector<float> kept(static_cast<size_t>(p.num_allowed));
    for (int64_t i = 0; i < p.num_allowed; ++i) kept[static_cast<size_t>(i)] = p.logits[p.allowed[i]];
    std::fill_n(p.logits, p.vocabulary_size, kBanned);
    for (int64_t i = 0; i < p.num_allowed; ++i) p.logits[p.allowed[i]] = kept[static_cast<size_t>(i)];
  }
  for (int64_t i = 0; i < p.num_banned; ++i) p.logits[p.banned[i]] = kBanned;
}

struct Candidate {
  float logit;
  int32_t id;
};

/// Higher logit first, ties to the lower id: a total order, so every sort gives the same list.
bool Before(const Candidate& a, const Candidate& b) {
  return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
}

/// Draws from the softmax of the candidates (sorted) after top_p and min_p.
int32_t Draw(const SampleParams& p, const std::vector<Candidate>& candidates) {
  std::vector<double> weights(candidates.size());
  double total = 0;
  for (size_t i = 0; i < candidates.size(); ++i) {
    const double gap = double{candidates[i].logit} - double{candidates[0].logit};
    total += weights[i] = std::exp(gap / double{p.temperature});
  }
  size_t num_kept = candidates.size();
  if (p.top_p < 1) {
    double sum = 0;
    for (num_kept = 0; num_kept < candidates.size() && (num_kept == 0 || sum < p.top_p * total);) {
      sum += weights[num_kept++];
    }
  }
  // weights[0] is 1: min_p is relative to the best token's probability.
  while (num_kept > 1 && weights[num_kept - 1] < double{p.min_p}) --num_kept;
  double kept_total = 0;
  for (size_t i = 0; i < num_kept; ++i) kept_total += weights[i];
  double target = Uniform(p.seed, p.step) * kept_total;
  for (size_t i = 0; i < num_kept; ++i) {
    if ((target -= weights[i]) < 0) return candidates[i].id;
  }
  return candidates[num_kept - 1].id;
}

}  // namespace

void Sample(const SampleParams& p) {
  *p.token_id = -1;
  for (int64_t i = 0; i < p.vocabulary_size; ++i) {
    if (std::isnan(p.logits[i])) return;
  }
  ApplyPenalties(p);
  ApplyMasks(p);
  Candidate best{kBanned, -1};
  for (int64_t i = 0; i < p.vocabulary_size; ++i) {
    if (p.logits[i] > best.logit) best = {p.logits[i], static_cast<int32_t>(i)};
  }
  if (best.id < 0) return;
  if (p.temperature == 0 || p.top_k == 1 || std::isinf(best.logit)) {
    *p.token_id = best.id;
    return;
  }
  std::vector<Candidate> candidates;
  // exp(−800) is 0 in double, so what lies further below cannot be drawn.
  const double floor = double{best.logit} - 800.0 * double{p.temperature};
  for (int64_t i = 0; i < p.vocabulary_size; ++i) {
    if (p.logits[i] > kBanned && p.logits[i] >= floor) {
      candidates.push_back({p.logits[i], static_cast<int32_t>(i)});
    }
  }
  if (p.top_k > 0 && static_cast<size_t>(p.top_k) < candidates.size()) {
    std::nth_element(candidates.begin(), candidates.begin() + p.top_k, candidates.end(), Before);
    candidates.resize(static_cast<size_t>(p.top_k));
  }
  std::sort(candidates.begin(), candidates.end(), Before);
  *p.token_id = Draw(p, candidates);
}

}  // namespace nsa::kernels::reference
