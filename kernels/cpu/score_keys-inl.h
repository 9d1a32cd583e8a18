// Softmax of long rows, and scores as sortable integers, compiled once for each Highway target: no
// include guard of the usual kind.
#if defined(NSA_KERNELS_CPU_SCORE_KEYS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef NSA_KERNELS_CPU_SCORE_KEYS_INL_H_
#undef NSA_KERNELS_CPU_SCORE_KEYS_INL_H_
#else
#define NSA_KERNELS_CPU_SCORE_KEYS_INL_H_
#endif

#include <bit>
#include <cstdint>

#include "hwy/highway.h"
#include "kernels/cpu/attention-inl.h"

HWY_BEFORE_NAMESPACE();
namespace nsa::kernels::cpu {
namespace HWY_NAMESPACE {

/// Turns scores[0, size) into exp(score − origin) in place and returns their sum.
HWY_INLINE float ExpInPlace(float origin, int64_t size, float* HWY_RESTRICT scores) {
  const F32Tag d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  auto sum = hn::Zero(d);
  for (int64_t i = 0; i < size; i += lanes) {
    const auto weight = ExpOfSoftmax(d, hn::Sub(hn::LoadU(d, scores + i), hn::Set(d, origin)));
    hn::StoreU(weight, d, scores + i);
    sum = hn::Add(sum, weight);
  }
  return hn::GetLane(hn::SumOfLanes(d, sum));
}

HWY_INLINE float MaximumOf(int64_t size, const float* HWY_RESTRICT scores) {
  const F32Tag d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  auto maximum = hn::Set(d, kNegativeInfinity);
  for (int64_t i = 0; i < size; i += lanes) {
    maximum = hn::Max(maximum, hn::LoadU(d, scores + i));
  }
  return hn::GetLane(hn::MaxOfLanes(d, maximum));
}

/// Score of a block as an integer with the same order: −1 for NaN, scores being sums of
/// probabilities and so not negative.
HWY_INLINE int32_t ScoreKey(float score) {
  if (!(score >= 0)) return -1;
  return std::bit_cast<int32_t>(score + 0.0f);
}

}  // namespace HWY_NAMESPACE
}  // namespace nsa::kernels::cpu
HWY_AFTER_NAMESPACE();

#endif  // NSA_KERNELS_CPU_SCORE_KEYS_INL_H_
