// Elements of the cache as vectors of floats and back, compiled once for each Highway target: no
// include guard of the usual kind.
#if defined(NSA_KERNELS_CPU_ELEMENT_VECTORS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef NSA_KERNELS_CPU_ELEMENT_VECTORS_INL_H_
#undef NSA_KERNELS_CPU_ELEMENT_VECTORS_INL_H_
#else
#define NSA_KERNELS_CPU_ELEMENT_VECTORS_INL_H_
#endif

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "hwy/highway.h"
#include "kernels/check.h"
#include "kernels/float8.h"
#include "kernels/int8_rows.h"
#include "kernels/quant.h"
#include "kernels/tensor.h"

HWY_BEFORE_NAMESPACE();
namespace nsa::kernels::cpu {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

using F32Tag = hn::CappedTag<float, 16>;
using F32Tail = hn::CappedTag<float, 1>;

template <class D>
HWY_INLINE hn::Vec<D> LoadCache(D d, const float* from) {
  return hn::LoadU(d, from);
}
template <class D>
HWY_INLINE hn::Vec<D> LoadCache(D d, const hwy::bfloat16_t* from) {
  const hn::Rebind<uint16_t, D> d16;
  const hn::RebindToUnsigned<D> d32;
  const auto bits = hn::LoadU(d16, reinterpret_cast<const uint16_t*>(from));
  return hn::BitCast(d, hn::ShiftLeft<16>(hn::PromoteTo(d32, bits)));
}
template <class D>
HWY_INLINE hn::Vec<D> LoadCache(D d, const hwy::float16_t* from) {
  const hn::Rebind<hwy::float16_t, D> d16;
  return hn::PromoteTo(d, hn::LoadU(d16, from));
}

template <class D>
HWY_INLINE hn::Vec<D> LoadCache(D d, const int8_t* from) {
  const hn::RebindToSigned<D> d32;
  const hn::Rebind<int8_t, D> d8;
  return hn::ConvertTo(d, hn::PromoteTo(d32, hn::LoadU(d8, from)));
}

/// As F8E4M3ToF32, a vector at a time.
template <class D>
HWY_INLINE hn::Vec<D> LoadCache(D d, const F8E4M3* from) {
  const hn::RebindToUnsigned<D> du;
  const hn::RebindToSigned<D> di;
  const hn::Rebind<uint8_t, D> d8;
  const auto bits = hn::PromoteTo(du, hn::LoadU(d8, &from->bits));
  const auto magnitude = hn::And(bits, hn::Set(du, 0x7F));
  const auto sign = hn::ShiftLeft<24>(hn::And(bits, hn::Set(du, 0x80)));
  const auto normal = hn::Add(hn::ShiftLeft<20>(magnitude), hn::Set(du, uint32_t{127 - 7} << 23));
  const auto small = hn::BitCast(
      du, hn::Mul(hn::ConvertTo(d, hn::BitCast(di, magnitude)), hn::Set(d, 1.0f / 512)));
  auto value = hn::IfThenElse(hn::Lt(magnitude, hn::Set(du, 8)), small, normal);
  value = hn::IfThenElse(hn::Eq(magnitude, hn::Set(du, 0x7F)), hn::Set(du, 0x7FC00000), value);
  return hn::BitCast(d, hn::Or(value, sign));
}

/// Whether LoadPair takes even and odd elements apart.
template <typename T>
inline constexpr bool kAlternates = HWY_TARGET != HWY_SCALAR && std::is_same_v<T, hwy::bfloat16_t>;

/// Two vectors of consecutive elements, in the order in which they are cheapest to take apart: one
/// after the other, or, bfloat16, those of even and those of odd places (half the instructions, as
/// each is the upper half of a 32-bit lane as it stands). LoadPairOf and StorePairOf have floats in
/// the order that elements of type T come in.
template <class D, typename T, class V = hn::Vec<D>>
HWY_INLINE void LoadPair(D d, const T* from, V& first, V& second) {
  if constexpr (kAlternates<T>) {
    const hn::RebindToUnsigned<D> d32;
    const hn::Repartition<uint16_t, D> d16;
    const auto both = hn::BitCast(d32, hn::LoadU(d16, reinterpret_cast<const uint16_t*>(from)));
    first = hn::BitCast(d, hn::ShiftLeft<16>(both));
    second = hn::BitCast(d, hn::And(both, hn::Set(d32, 0xFFFF0000)));
  } else {
    first = LoadCache(d, from);
    second = LoadCache(d, from + hn::Lanes(d));
  }
}
template <typename T, class D, class V = hn::Vec<D>>
HWY_INLINE void LoadPairOf(D d, const float* from, V& first, V& second) {
  if constexpr (kAlternates<T>) {
    hn::LoadInterleaved2(d, from, first, second);
  } else {
    LoadPair(d, from, first, second);
  }
}
template <typename T, class D, class V = hn::Vec<D>>
HWY_INLINE void StorePairOf(D d, V first, V second, float* to) {
  if constexpr (kAlternates<T>) {
    hn::StoreInterleaved2(first, second, d, to);
  } else {
    hn::StoreU(first, d, to);
    hn::StoreU(second, d, to + hn::Lanes(d));
  }
}

/// kVectors vectors of the cache's elements, in pairs where there are two.
template <size_t kVectors, class D, typename T, class V = hn::Vec<D>>
HWY_INLINE void LoadVectors(D d, const T* from, V* values) {
  static_assert(kVectors == 1 || kVectors % 2 == 0);
  if constexpr (kVectors == 1) {
    values[0] = LoadCache(d, from);
  } else {
    for (size_t i = 0; i < kVectors; i += 2) {
      LoadPair(d, from + i * hn::Lanes(d), values[i], values[i + 1]);
    }
  }
}
/// The same of floats in the order of LoadVectors of elements T.
template <typename T, size_t kVectors, class D, class V = hn::Vec<D>>
HWY_INLINE void LoadVectorsOf(D d, const float* from, V* values) {
  if constexpr (kVectors == 1) {
    values[0] = hn::LoadU(d, from);
  } else {
    for (size_t i = 0; i < kVectors; i += 2) {
      LoadPairOf<T>(d, from + i * hn::Lanes(d), values[i], values[i + 1]);
    }
  }
}
template <typename T, size_t kVectors, class D, class V = hn::Vec<D>>
HWY_INLINE void StoreVectorsOf(D d, const V* values, float* to) {
  if constexpr (kVectors == 1) {
    hn::StoreU(values[0], d, to);
  } else {
    for (size_t i = 0; i < kVectors; i += 2) {
      StorePairOf<T>(d, values[i], values[i + 1], to + i * hn::Lanes(d));
    }
  }
}

/// Stores `count` elements as the cache has them.
HWY_INLINE void RoundToCache(const float* from, int count, float* to) {
  std::memcpy(to, from, sizeof(float) * count);
}
HWY_INLINE void RoundToCache(const float* from, int count, hwy::float16_t* to) {
  for (int i = 0; i < count; ++i) to[i].bits = F32ToF16(from[i]);
}
HWY_INLINE void RoundToCache(const float* from, int count, F8E4M3* to) {
  for (int i = 0; i < count; ++i) to[i] = F32ToF8E4M3(from[i]);
}
/// As F32ToBF16, a vector at a time.
HWY_INLINE void RoundToCache(const float* from, int count, hwy::bfloat16_t* to) {
  const F32Tag d;
  const hn::RebindToUnsigned<F32Tag> du;
  const hn::Rebind<uint16_t, F32Tag> d16;
  const int lanes = static_cast<int>(hn::Lanes(d));
  int i = 0;
  for (; i + lanes <= count; i += lanes) {
    const auto x = hn::LoadU(d, from + i);
    const auto bits = hn::BitCast(du, x);
    const auto high = hn::ShiftRight<16>(bits);
    const auto half = hn::Add(hn::Set(du, 0x7FFF), hn::And(high, hn::Set(du, 1)));
    const auto rounded = hn::ShiftRight<16>(hn::Add(bits, half));
    const auto nan = hn::Or(high, hn::Set(du, 0x40));
    const auto result = hn::IfThenElse(hn::RebindMask(du, hn::IsNaN(x)), nan, rounded);
    hn::StoreU(hn::TruncateTo(d16, result), d16, reinterpret_cast<uint16_t*>(to + i));
  }
  for (; i < count; ++i) {
    const uint16_t bits = F32ToBF16(from[i]);
    std::memcpy(to + i, &bits, 2);
  }
}

/// The largest |x|; infinity where one is infinite, NaN where one is NaN.
HWY_INLINE float LargestMagnitude(const float* HWY_RESTRICT x, int count) {
  const F32Tag d;
  const hn::RebindToSigned<F32Tag> di;
  const int lanes = static_cast<int>(hn::Lanes(d));
  // Magnitudes of floats order as integers, with infinity and NaN above the finite ones.
  auto largest_bits = hn::Zero(di);
  int i = 0;
  for (; i + lanes <= count; i += lanes) {
    largest_bits = hn::Max(largest_bits, hn::BitCast(di, hn::Abs(hn::LoadU(d, x + i))));
  }
  int32_t largest = hn::GetLane(hn::MaxOfLanes(di, largest_bits));
  for (; i < count; ++i) largest = std::max(largest, std::bit_cast<int32_t>(std::abs(x[i])));
  return std::bit_cast<float>(largest);
}

/// Stores a row of `count` elements as 8-bit integers and returns their scale.
HWY_INLINE float QuantiseRow(const float* from, int count, int8_t* to) {
  const F32Tag d;
  const hn::Rebind<int8_t, F32Tag> d8;
  const int lanes = static_cast<int>(hn::Lanes(d));
  const Int8RowScale scale(LargestMagnitude(from, count));
  if (scale.inverse == 0) {
    std::memset(to, 0, static_cast<size_t>(count));
    return scale.scale;
  }
  int i = 0;
  for (; i + lanes <= count; i += lanes) {
    const auto q = hn::NearestInt(hn::Mul(hn::LoadU(d, from + i), hn::Set(d, scale.inverse)));
    hn::StoreU(hn::DemoteTo(d8, q), d8, to + i);
  }
  for (; i < count; ++i) {
    to[i] = static_cast<int8_t>(std::nearbyint(from[i] * scale.inverse));
  }
  return scale.scale;
}

/// Calls body with a value of the compressed rows' element type, which says which it is.
template <class Body>
HWY_INLINE void WithCmpType(DType dtype, const Body& body) {
  NSA_CHECK(SizeOf(dtype) > 1);
  if (dtype == DType::kF32) return body(float());
  if (dtype == DType::kF16) return body(hwy::float16_t());
  body(hwy::bfloat16_t());
}

/// The same for the element type of K and V.
template <class Body>
HWY_INLINE void WithCacheType(DType dtype, const Body& body) {
  if (dtype == DType::kInt8) return body(int8_t());
  if (dtype == DType::kF8E4M3) return body(F8E4M3());
  WithCmpType(dtype, body);
}

}  // namespace HWY_NAMESPACE
}  // namespace nsa::kernels::cpu
HWY_AFTER_NAMESPACE();

#endif  // NSA_KERNELS_CPU_ELEMENT_VECTORS_INL_H_
