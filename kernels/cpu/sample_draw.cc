#include "kernels/cpu/sample_draw.h"

#include <algorithm>
#include <cmath>

#include "kernels/sampling.h"

namespace nsa::kernels::cpu {
namespace {

/// Higher logit first, ties to the lower id: a total order, so every way to sort gives one list.
bool Before(const Candidate& a, const Candidate& b) {
  return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
}

}  // namespace

int32_t DrawFromBest(const SampleParams& p, Candidate* candidates, int64_t count, bool is_all,
                     double total) {
  const bool has_top_k = p.top_k > 0 && p.top_k < p.vocabulary_size;
  bool is_complete = is_all;  // nothing beyond `count` can be kept
  if (has_top_k && count >= p.top_k) {
    std::nth_element(candidates, candidates + (p.top_k - 1), candidates + count, Before);
    count = p.top_k;
    is_complete = true;
  }
  if (has_top_k && !is_complete) return -1;
  std::sort(candidates, candidates + count, Before);
  const double best = candidates[0].logit;
  const auto weight = [&](int64_t i) {
    return std::exp((double{candidates[i].logit} - best) / double{p.temperature});
  };
  if (has_top_k) {
    total = 0;
    for (int64_t i = 0; i < count; ++i) total += weight(i);
  }
  // What is kept is a prefix; its mass decides the draw.
  double kept_total = total;
  int64_t num_kept = count;
  if (p.top_p < 1 || p.min_p > 0) {
    const double mass = p.top_p < 1 ? double{p.top_p} * total : 2 * total;
    double sum = 0;
    bool is_cut = false;
    for (num_kept = 0; num_kept < count; ++num_kept) {
      const double next = weight(num_kept);
      is_cut = num_kept > 0 && (sum >= mass || next < double{p.min_p});
      if (is_cut) break;
      sum += next;
    }
    if (!is_cut && !is_complete) return -1;
    kept_total = sum;
  }
  double target = UniformDraw(p.seed, p.step) * kept_total;
  for (int64_t i = 0; i < num_kept; ++i) {
    if ((target -= weight(i)) < 0) return candidates[i].id;
  }
  const bool is_last = num_kept < count || is_complete;
  return is_last ? candidates[num_kept - 1].id : -1;
}

}  // namespace nsa::kernels::cpu
