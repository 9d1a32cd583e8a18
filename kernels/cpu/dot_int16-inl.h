// Products of 16-bit and of 8-bit integers, which Highway 1.0.3 has in another shape or not at all:
// once for each target.
#if defined(NSA_KERNELS_CPU_DOT_INT16_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef NSA_KERNELS_CPU_DOT_INT16_INL_H_
#undef NSA_KERNELS_CPU_DOT_INT16_INL_H_
#else
#define NSA_KERNELS_CPU_DOT_INT16_INL_H_
#endif

#include <cstdint>

#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace nsa::kernels::cpu {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// The lanes are 32-bit integers; each stands for a pair of signed 16-bit integers.

#if HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX3_DL

/// sum + Σ over the lane's pair of w·x, exact.
template <class V>
HWY_INLINE V DotPairs(V w, V x, V sum) {
#if HWY_TARGET == HWY_AVX3_DL
  // The target's compiler flags lack avx512vnni, though its CPU check has it: hence no intrinsic.
  asm("vpdpwssd %2, %1, %0" : "+v"(sum.raw) : "v"(w.raw), "v"(x.raw));
  return sum;
#elif HWY_TARGET == HWY_AVX3
  return hn::Add(sum, V{_mm512_madd_epi16(w.raw, x.raw)});
#else
  return hn::Add(sum, V{_mm256_madd_epi16(w.raw, x.raw)});
#endif
}

/// Pair kPair of 4: bits 4·kPair … 4·kPair + 3 of each half, unsigned.
template <int kPair, class DI, class V = hn::Vec<DI>>
HWY_INLINE V NibblePair(DI di, V packed) {
  const hn::Repartition<uint16_t, DI> d16;
  auto halves = hn::BitCast(d16, packed);
  if constexpr (kPair > 0) halves = hn::ShiftRight<4 * kPair>(halves);
  if constexpr (kPair < 3) halves = hn::And(halves, hn::Set(d16, 15));
  return hn::BitCast(di, halves);
}

/// Pair kPair of 2: byte kPair of each half, signed.
template <int kPair, class DI, class V = hn::Vec<DI>>
HWY_INLINE V BytePair(DI di, V packed) {
  const hn::Repartition<int16_t, DI> d16;
  auto halves = hn::BitCast(d16, packed);
  if constexpr (kPair == 0) halves = hn::ShiftLeft<8>(halves);
  return hn::BitCast(di, hn::ShiftRight<8>(halves));
}

#else  // any other target

template <class V>
HWY_INLINE V DotPairs(V w, V x, V sum) {
  const auto low = [](V pair) { return hn::ShiftRight<16>(hn::ShiftLeft<16>(pair)); };
  sum = hn::Add(sum, hn::Mul(low(w), low(x)));
  return hn::Add(sum, hn::Mul(hn::ShiftRight<16>(w), hn::ShiftRight<16>(x)));
}

template <int kPair, class DI, class V = hn::Vec<DI>>
HWY_INLINE V NibblePair(DI di, V packed) {
  if constexpr (kPair > 0) packed = hn::ShiftRight<4 * kPair>(packed);
  return hn::And(packed, hn::Set(di, 0x000F000F));
}

template <int kPair, class DI, class V = hn::Vec<DI>>
HWY_INLINE V BytePair(DI di, V packed) {
  V high = packed;
  if constexpr (kPair == 0) high = hn::ShiftLeft<8>(packed);
  high = hn::And(hn::ShiftRight<8>(high), hn::Set(di, static_cast<int32_t>(0xFFFF0000u)));
  const V low = hn::ShiftRight<24>(hn::ShiftLeft<24 - 8 * kPair>(packed));
  return hn::Or(high, hn::And(low, hn::Set(di, 0xFFFF)));
}

#endif

// The same with four signed bytes a lane, each from −127 to 127.

#if HWY_TARGET == HWY_AVX3_DL

/// How much more than w each byte of QuadsOf(w) is worth to DotQuads: its instruction takes those
/// as unsigned.
inline constexpr int kQuadOffset = 128;

template <class DI, class V = hn::Vec<DI>>
HWY_INLINE V QuadsOf(DI di, V w) {
  return hn::Xor(w, hn::Set(di, static_cast<int32_t>(0x80808080u)));
}

/// sum + Σ over the lane's four of (w + kQuadOffset)·x, exact; `quads` is QuadsOf(w).
template <class V>
HWY_INLINE V DotQuads(V quads, V x, V sum) {
  asm("vpdpbusd %2, %1, %0" : "+v"(sum.raw) : "v"(quads.raw), "v"(x.raw));
  return sum;
}

#else  // any other target

inline constexpr int kQuadOffset = 0;

template <class DI, class V = hn::Vec<DI>>
HWY_INLINE V QuadsOf(DI /*di*/, V w) {
  return w;
}

template <class V>
HWY_INLINE V DotQuads(V quads, V x, V sum) {
#if HWY_TARGET == HWY_AVX2
  // Two products of at most 127² fit in 16 bits; the instruction wants one factor unsigned.
  const __m256i products =
      _mm256_maddubs_epi16(_mm256_abs_epi8(quads.raw), _mm256_sign_epi8(x.raw, quads.raw));
  return hn::Add(sum, V{_mm256_madd_epi16(products, _mm256_set1_epi16(1))});
#else
  const hn::DFromV<V> di;
  sum = DotPairs(BytePair<0>(di, quads), BytePair<0>(di, x), sum);
  return DotPairs(BytePair<1>(di, quads), BytePair<1>(di, x), sum);
#endif
}

#endif

}  // namespace HWY_NAMESPACE
}  // namespace nsa::kernels::cpu
HWY_AFTER_NAMESPACE();

#endif  // NSA_KERNELS_CPU_DOT_INT16_INL_H_
