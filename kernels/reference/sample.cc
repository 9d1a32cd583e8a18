#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "kernels/reference/reference.h"
#include "kernels/sampling.h"

namespace nsa::kernels::reference {
namespace {

constexpr float kBanned = -std::numeric_limits<float>::infinity();

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
  double target = UniformDraw(p.seed, p.step) * kept_total;
  for (size_t i = 0; i < num_kept; ++i) {
    target -= weights[i];
    if (target < 0) return candidates[i].id;
  }
  return candidates[num_kept - 1].id;
}

}  // namespace

void Sample(const SampleParams& p) {
  *p.token_id = kLogitsNan;
  for (int64_t i = 0; i < p.vocabulary_size; ++i) {
    if (std::isnan(p.logits[i])) return;
  }
  *p.token_id = kNoToken;
  AdjustLogits(p);
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
