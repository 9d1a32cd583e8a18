// Vector functions, compiled once for each Highway target: no include guard of the usual kind.
#if defined(NSA_KERNELS_CPU_MATH_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef NSA_KERNELS_CPU_MATH_INL_H_
#undef NSA_KERNELS_CPU_MATH_INL_H_
#else
#define NSA_KERNELS_CPU_MATH_INL_H_
#endif

#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace nsa::kernels::cpu {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

/// e^r for |r| ≤ ln(2)/2, relative error 3e-9 before rounding (coefficients: least maximum of the
/// relative error, by iteratively reweighted least squares).
template <class D, class V = hn::Vec<D>>
HWY_INLINE V ExpReduced(D d, V r) {
  V p = hn::Set(d, 1.38145406e-3f);
  p = hn::MulAdd(p, r, hn::Set(d, 8.36874545e-3f));
  p = hn::MulAdd(p, r, hn::Set(d, 4.1668389e-2f));
  p = hn::MulAdd(p, r, hn::Set(d, 1.66665211e-1f));
  p = hn::MulAdd(p, r, hn::Set(d, 4.9999994e-1f));
  p = hn::MulAdd(p, r, hn::Set(d, 1.0f));
  return hn::MulAdd(p, r, hn::Set(d, 1.0f));
}

/// e^x within 1.3 ulp for every x (checked over one in seven of all floats, each target): −inf and
/// anything below −104 give 0, above 88.73 +inf, NaN stays NaN.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V Exp(D d, V x) {
  const V log2_e = hn::Set(d, 1.44269502f);
  // ln(2) in two parts; n · ln2_high is exact for the n that occur.
  const V ln2_high = hn::Set(d, 0.69140625f);
  const V ln2_low = hn::Set(d, 1.740930602e-3f);
  const hn::RebindToSigned<D> di;
  // Out of range x gives a meaningless n, r and result, which the two selections below replace.
  const auto n = hn::NearestInt(hn::Mul(x, log2_e));
  const V n_float = hn::ConvertTo(d, n);
  const V r = hn::NegMulAdd(n_float, ln2_low, hn::NegMulAdd(n_float, ln2_high, x));
  // 2^n in two factors, as n goes below the exponents of normal numbers and, for 128, above.
  const auto half = hn::ShiftRight<1>(n);
  const auto bias = hn::Set(di, 127);
  const V scale_1 = hn::BitCast(d, hn::ShiftLeft<23>(hn::Add(half, bias)));
  const V scale_2 = hn::BitCast(d, hn::ShiftLeft<23>(hn::Add(hn::Sub(n, half), bias)));
  V y = hn::Mul(hn::Mul(ExpReduced(d, r), scale_1), scale_2);
  y = hn::IfThenElse(hn::Gt(x, hn::Set(d, 88.73f)), hn::Inf(d), y);
  return hn::IfThenZeroElse(hn::Lt(x, hn::Set(d, -104.0f)), y);
}

}  // namespace HWY_NAMESPACE
}  // namespace nsa::kernels::cpu
HWY_AFTER_NAMESPACE();

#endif  // NSA_KERNELS_CPU_MATH_INL_H_
