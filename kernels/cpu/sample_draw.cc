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

/// Candidates in order, of which only as many are sorted as somebody looks at: a draw ends early.
class LazilySorted {
 public:
  LazilySorted(Candidate* candidates, int64_t count) : candidates_(candidates), count_(count) {}

  /// `i` < the count.
  const Candidate& operator[](int64_t i) {
    while (i >= num_sorted_) SortMore();
    return candidates_[i];
  }

 private:
  void SortMore() {
    const int64_t end = std::min(count_, std::max<int64_t>(128, 2 * num_sorted_));
    if (end < count_) {
      std::nth_element(candidates_ + num_sorted_, candidates_ + end, candidates_ + count_, Before);
    }
    std::sort(candidates_ + num_sorted_, candidates_ + end, Before);
    num_sorted_ = end;
  }

  Candidate* candidates_;
  int64_t count_;
  int64_t num_sorted_ = 0;
};

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
  LazilySorted sorted(candidates, count);
  const double best = sorted[0].logit;
  const auto weight = [&](int64_t i) {
    return std::exp((double{sorted[i].logit} - best) / double{p.temperature});
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
    target -= weight(i);
    if (target < 0) return sorted[i].id;
  }
  const bool is_last = num_kept < count || is_complete;
  return is_last ? sorted[num_kept - 1].id : -1;
}

}  // namespace nsa::kernels::cpu
