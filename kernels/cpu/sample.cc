#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/sample_draw.h"
#include "kernels/sampling.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/sample.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "kernels/cpu/math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace nsa::kernels::cpu {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

using DF = hn::CappedTag<float, 16>;
using VF = hn::Vec<DF>;

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

bool HasNan(const float* logits, int64_t size) {
  const DF d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  // x − x would also catch infinities, which are allowed; x == x fails for NaN alone.
  auto all_equal = hn::Eq(hn::Zero(d), hn::Zero(d));
  int64_t i = 0;
  for (; i + lanes <= size; i += lanes) {
    const VF x = hn::LoadU(d, logits + i);
    all_equal = hn::And(all_equal, hn::Eq(x, x));
  }
  bool found = !hn::AllTrue(d, all_equal);
  for (; i < size; ++i) found = found || std::isnan(logits[i]);
  return found;
}

/// The lowest id of the largest logit, or −1 where none is above −inf.
int64_t ArgMax(const float* logits, int64_t size) {
  const DF d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  VF max = hn::Set(d, kMinusInfinity);
  int64_t i = 0;
  for (; i + lanes <= size; i += lanes) {
    const VF x = hn::LoadU(d, logits + i);
    max = hn::IfThenElse(hn::Gt(x, max), x, max);  // a NaN is never taken
  }
  float best = hn::GetLane(hn::MaxOfLanes(d, max));
  for (; i < size; ++i) best = logits[i] > best ? logits[i] : best;
  if (best == kMinusInfinity) return -1;
  for (i = 0; i + lanes <= size; i += lanes) {
    const intptr_t lane = hn::FindFirstTrue(d, hn::Eq(hn::LoadU(d, logits + i), hn::Set(d, best)));
    if (lane >= 0) return i + lane;
  }
  while (logits[i] != best) ++i;
  return i;
}

/// Σ exp((logit − best) / temperature). Vectors are summed in float only over short runs.
double SumOfWeights(const float* logits, int64_t size, float best, float temperature) {
  const DF d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const auto weight = [&](VF logit) {
    const VF x = hn::Div(hn::Sub(logit, hn::Set(d, best)), hn::Set(d, temperature));
    return hn::IfThenElseZero(hn::Eq(x, x), Exp(d, x));
  };
  double total = 0;
  int64_t i = 0;
  while (i + lanes <= size) {
    VF sum = hn::Zero(d);
    const int64_t end = std::min(i + 32 * lanes, size);
    for (; i + lanes <= end; i += lanes) sum = hn::Add(sum, weight(hn::LoadU(d, logits + i)));
    total += double{hn::GetLane(hn::SumOfLanes(d, sum))};
  }
  for (; i < size; ++i) total += double{hn::GetLane(weight(hn::Set(d, logits[i])))};
  return total;
}

/// Copies the logits ≥ floor and above −inf; returns how many.
int64_t Collect(const float* logits, int64_t size, float floor, Candidate* target) {
  const DF d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  int64_t count = 0;
  const auto take = [&](int64_t i) {
    if (logits[i] >= floor && logits[i] > kMinusInfinity) {
      target[count++] = {logits[i], static_cast<int32_t>(i)};
    }
  };
  int64_t i = 0;
  for (; i + lanes <= size; i += lanes) {
    if (hn::AllFalse(d, hn::Ge(hn::LoadU(d, logits + i), hn::Set(d, floor)))) continue;
    for (int64_t lane = 0; lane < lanes; ++lane) take(i + lane);
  }
  for (; i < size; ++i) take(i);
  return count;
}

void SampleForTarget(Context& context, const SampleParams& p) {
  *p.token_id = kLogitsNan;
  if (HasNan(p.logits, p.vocabulary_size)) return;
  *p.token_id = kNoToken;
  AdjustLogits(p);
  const int64_t best_id = ArgMax(p.logits, p.vocabulary_size);
  if (best_id < 0) return;
  const float best = p.logits[best_id];
  if (p.temperature == 0 || p.top_k == 1 || std::isinf(best)) {
    *p.token_id = static_cast<int32_t>(best_id);
    return;
  }
  const double total = SumOfWeights(p.logits, p.vocabulary_size, best, p.temperature);
  auto* candidates = context.shared[1].Get<Candidate>(static_cast<size_t>(p.vocabulary_size));
  // Most draws end among the few best tokens: look there first, and further down only if not.
  // exp(−800) is 0 in double, so the last round sees all that can be drawn.
  for (double depth : {6.0, 12.0, 24.0, 800.0}) {
    const auto floor = static_cast<float>(double{best} - depth * double{p.temperature});
    const int64_t count = Collect(p.logits, p.vocabulary_size, floor, candidates);
    const bool is_all = depth == 800.0;
    *p.token_id = DrawFromBest(p, candidates, count, is_all, total);
    if (*p.token_id >= 0) return;
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace nsa::kernels::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace nsa::kernels::cpu {

HWY_EXPORT(SampleForTarget);

void Sample(Context& context, const SampleParams& params) {
  HWY_DYNAMIC_DISPATCH(SampleForTarget)(context, params);
}

}  // namespace nsa::kernels::cpu
#endif
