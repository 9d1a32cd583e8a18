// Kernels for one block of 32 output rows, compiled once for each target.
#if defined(NSA_KERNELS_CPU_GEMM_BLOCK_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef NSA_KERNELS_CPU_GEMM_BLOCK_INL_H_
#undef NSA_KERNELS_CPU_GEMM_BLOCK_INL_H_
#else
#define NSA_KERNELS_CPU_GEMM_BLOCK_INL_H_
#endif

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "hwy/cache_control.h"
#include "hwy/highway.h"
#include "kernels/activation.h"
#include "kernels/cpu/dot_int16-inl.h"
#include "kernels/cpu/gemm_activations.h"
#include "kernels/cpu/packed_matrix.h"

HWY_BEFORE_NAMESPACE();
namespace nsa::kernels::cpu {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

using DF = hn::CappedTag<float, 16>;
using DI = hn::RebindToSigned<DF>;
using VF = hn::Vec<DF>;
using VI = hn::Vec<DI>;

// Two vectors of outputs for each row of x share every broadcast of x. With 32 registers six rows
// of x share every unpacked weight: 12 integer and 12 float sums; with 16 registers two rows.
#if HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX3_DL
inline constexpr int kTileRows = 6;
#else
inline constexpr int kTileRows = 2;
#endif

/// What a kernel is compiled for; the formats' arithmetic differs in nothing else.
template <int kBitsOfQ, bool kHalf, bool kMinimum, int kOffset, int kSubgroups>
struct Format {
  static constexpr int kBits = kBitsOfQ;
  static constexpr bool kHalfScales = kHalf;
  static constexpr bool kHasMinimum = kMinimum;
  static constexpr int kSymmetricOffset = kOffset;  // subtracted here, not when packed
  static constexpr int kScalesPerGroup = kSubgroups;
  // Of the packed layout (packed_matrix.h), in bytes from a group's begin.
  static constexpr int kScaleOffset = kActivationGroup * kBlockRows * kBits / 8;
  static constexpr int kMinimumOffset =
      kScaleOffset + kScalesPerGroup * kBlockRows * (kHalfScales ? 2 : 4);
  static constexpr int kGroupBytes =
      kHasMinimum ? 2 * kMinimumOffset - kScaleOffset : kMinimumOffset;
};
using FormatQ4_0 = Format<4, true, false, 8, 1>;
using FormatQ4_1 = Format<4, true, true, 0, 1>;
using FormatQ5_1 = Format<8, true, true, 0, 1>;
using FormatQ8_0 = Format<8, true, false, 0, 1>;  // and Q5_0
using FormatQ4_K = Format<4, false, true, 0, 1>;
using FormatQ5_K = Format<8, false, true, 0, 1>;
using FormatQ6_K = Format<8, false, false, 0, 2>;

template <class F>
HWY_INLINE VF LoadCoefficient(const std::byte* coefficients, int index) {
  const DF df;
  if constexpr (F::kHalfScales) {
    const hn::Rebind<hwy::float16_t, DF> dh;
    return hn::PromoteTo(
        df, hn::LoadU(dh, reinterpret_cast<const hwy::float16_t*>(coefficients) + index));
  } else {
    return hn::LoadU(df, reinterpret_cast<const float*>(coefficients) + index);
  }
}

HWY_INLINE VI BroadcastPair(const int16_t* x) {
  int32_t pair;
  std::memcpy(&pair, x, sizeof(pair));
  return hn::Set(DI(), pair);
}

/// Adds the products of one pair of columns to the integer sums of kRows rows.
template <int kRows>
HWY_INLINE void AddPair(const int16_t* const (&x)[kRows], int64_t column, VI w0, VI w1,
                        VI (&sums)[kRows][2]) {
  HWY_UNROLL(6)
  for (int r = 0; r < kRows; ++r) {
    const VI pair = BroadcastPair(x[r] + column);
    sums[r][0] = DotPairs(w0, pair, sums[r][0]);
    sums[r][1] = DotPairs(w1, pair, sums[r][1]);
  }
}

/// One 32-bit lane of q for each output: 8 columns of 4 bits or 4 of 8 bits.
template <class F, int kRows>
HWY_INLINE void AddLane(const int16_t* const (&x)[kRows], int64_t column, const int32_t* q,
                        VI (&sums)[kRows][2]) {
  const DI di;
  const VI q0 = hn::LoadU(di, q);
  const VI q1 = hn::LoadU(di, q + hn::Lanes(di));
  if constexpr (F::kBits == 4) {
    AddPair<kRows>(x, column, NibblePair<0>(di, q0), NibblePair<0>(di, q1), sums);
    AddPair<kRows>(x, column + 2, NibblePair<1>(di, q0), NibblePair<1>(di, q1), sums);
    AddPair<kRows>(x, column + 4, NibblePair<2>(di, q0), NibblePair<2>(di, q1), sums);
    AddPair<kRows>(x, column + 6, NibblePair<3>(di, q0), NibblePair<3>(di, q1), sums);
  } else {
    AddPair<kRows>(x, column, BytePair<0>(di, q0), BytePair<0>(di, q1), sums);
    AddPair<kRows>(x, column + 2, BytePair<1>(di, q0), BytePair<1>(di, q1), sums);
  }
}

/// A streamed matrix is read once: asks for what comes kPrefetchBytes later, the next block
/// included.
template <class F>
HWY_INLINE void PrefetchGroup(const std::byte* group) {
  constexpr int kPrefetchBytes = 4096;
  HWY_UNROLL(20)
  for (int i = 0; i < F::kGroupBytes; i += 64) {
    hwy::Prefetch(group + kPrefetchBytes + i);
  }
}

/// acc ← fma(Σ q_w·q, scale_w·scale, acc) over the columns of scale `sub` of one group.
template <class F, int kRows>
HWY_INLINE void AddProducts(const std::byte* group, const int16_t* const (&x)[kRows],
                            const Activations& a, int64_t first_scale, int sub, int begin,
                            VF (&acc)[kRows][2]) {
  const DF df;
  const DI di;
  constexpr int kColumnsPerLane = 32 / F::kBits;
  constexpr int kLanesPerScale = kActivationGroup / kColumnsPerLane / F::kScalesPerGroup;
  VI sums[kRows][2];
  HWY_UNROLL(6)
  for (int r = 0; r < kRows; ++r) {
    sums[r][0] = sums[r][1] =
        F::kSymmetricOffset == 0
            ? hn::Zero(di)
            : hn::Set(di, -F::kSymmetricOffset * a.sum[first_scale + r * a.num_groups]);
  }
  const auto* q = reinterpret_cast<const int32_t*>(group) + begin;
  HWY_UNROLL(8)
  for (int i = 0; i < kLanesPerScale; ++i) {
    const int lane = sub * kLanesPerScale + i;
    AddLane<F, kRows>(x, lane * kColumnsPerLane, q + lane * kBlockRows, sums);
  }
  const int index = sub * kBlockRows + begin;
  const std::byte* scales = group + F::kScaleOffset;
  const VF scale_0 = LoadCoefficient<F>(scales, index);
  const VF scale_1 = LoadCoefficient<F>(scales, index + static_cast<int>(hn::Lanes(df)));
  HWY_UNROLL(6)
  for (int r = 0; r < kRows; ++r) {
    const VF scale = hn::Set(df, a.scale[first_scale + r * a.num_groups]);
    acc[r][0] = hn::MulAdd(hn::ConvertTo(df, sums[r][0]), hn::Mul(scale_0, scale), acc[r][0]);
    acc[r][1] = hn::MulAdd(hn::ConvertTo(df, sums[r][1]), hn::Mul(scale_1, scale), acc[r][1]);
  }
}

/// acc ← fma(minimum_w, scale·Σ q, acc) for one group.
template <class F, int kRows>
HWY_INLINE void AddMinimum(const std::byte* group, const Activations& a, int64_t first_scale,
                           int begin, VF (&acc)[kRows][2]) {
  const DF df;
  const std::byte* minimums = group + F::kMinimumOffset;
  const VF minimum_0 = LoadCoefficient<F>(minimums, begin);
  const VF minimum_1 = LoadCoefficient<F>(minimums, begin + static_cast<int>(hn::Lanes(df)));
  HWY_UNROLL(6)
  for (int r = 0; r < kRows; ++r) {
    const VF x_sum = hn::Set(df, a.scaled_sum[first_scale + r * a.num_groups]);
    acc[r][0] = hn::MulAdd(minimum_0, x_sum, acc[r][0]);
    acc[r][1] = hn::MulAdd(minimum_1, x_sum, acc[r][1]);
  }
}

template <int kRows>
HWY_INLINE void StoreSums(const VF (&acc)[kRows][2], int begin, float* y) {
  const DF df;
  const auto lanes = static_cast<int>(hn::Lanes(df));
  for (int r = 0; r < kRows; ++r) {
    hn::StoreU(acc[r][0], df, y + r * kBlockRows + begin);
    hn::StoreU(acc[r][1], df, y + r * kBlockRows + begin + lanes);
  }
}

/// y of kRows rows of x and 2·Lanes outputs, from output `begin` of the block on.
/// The order of operations is the one of ops/gemm.h and the same for every kRows.
template <class F, int kRows>
HWY_INLINE void QuantisedColumns(const std::byte* block, const Activations& a, int64_t row,
                                 int begin, float* y) {
  const DF df;
  const int16_t* x[kRows];
  VF acc[kRows][2];
  HWY_UNROLL(6)
  for (int r = 0; r < kRows; ++r) {
    x[r] = a.q + (row + r) * a.num_columns;
    acc[r][0] = acc[r][1] = hn::Zero(df);
  }
  for (int64_t g = 0; g < a.num_groups; ++g) {
    const std::byte* group = block + g * F::kGroupBytes;
    const int64_t first_scale = row * a.num_groups + g;
    // More rows than these come back to the same block, so that prefetching pays less than it
    // costs.
    if (kRows <= 2 && begin == 0) PrefetchGroup<F>(group);
    HWY_UNROLL(2)
    for (int sub = 0; sub < F::kScalesPerGroup; ++sub) {
      AddProducts<F, kRows>(group, x, a, first_scale, sub, begin, acc);
    }
    if constexpr (F::kHasMinimum) AddMinimum<F, kRows>(group, a, first_scale, begin, acc);
    HWY_UNROLL(6)
    for (int r = 0; r < kRows; ++r) x[r] += kActivationGroup;
  }
  StoreSums<kRows>(acc, begin, y);
}

template <typename T>
HWY_INLINE VF LoadDense(const T* w) {
  const DF df;
  if constexpr (sizeof(T) == 4) {
    return hn::LoadU(df, w);
  } else {
    return hn::PromoteTo(df, hn::LoadU(hn::Rebind<T, DF>(), w));
  }
}

/// As QuantisedColumns, for weights of type T: float32 products added in the order of columns.
template <typename T, int kRows>
HWY_INLINE void DenseColumns(const std::byte* block, const Activations& a, int64_t row, int begin,
                             float* y) {
  const DF df;
  const int lanes = static_cast<int>(hn::Lanes(df));
  VF acc[kRows][2];
  HWY_UNROLL(6)
  for (int r = 0; r < kRows; ++r) acc[r][0] = acc[r][1] = hn::Zero(df);
  const T* w = reinterpret_cast<const T*>(block) + begin;
  const float* x = a.x + row * a.x_stride;
  for (int64_t k = 0; k < a.num_columns; ++k) {
    const VF w0 = LoadDense(w + k * kBlockRows);
    const VF w1 = LoadDense(w + k * kBlockRows + lanes);
    HWY_UNROLL(6)
    for (int r = 0; r < kRows; ++r) {
      const VF value = hn::Set(df, x[r * a.x_stride + k]);
      acc[r][0] = hn::MulAdd(w0, value, acc[r][0]);
      acc[r][1] = hn::MulAdd(w1, value, acc[r][1]);
    }
  }
  StoreSums<kRows>(acc, begin, y);
}

/// Writes y[kRows, kBlockRows] of one block.
using BlockKernel = void (*)(const std::byte* block, const Activations& a, int64_t row, float* y);

template <class F, int kRows>
void QuantisedBlock(const std::byte* block, const Activations& a, int64_t row, float* y) {
  const int step = 2 * static_cast<int>(hn::Lanes(DF()));
  for (int begin = 0; begin < kBlockRows; begin += step) {
    QuantisedColumns<F, kRows>(block, a, row, begin, y);
  }
}

template <typename T, int kRows>
void DenseBlock(const std::byte* block, const Activations& a, int64_t row, float* y) {
  const int step = 2 * static_cast<int>(hn::Lanes(DF()));
  for (int begin = 0; begin < kBlockRows; begin += step) {
    DenseColumns<T, kRows>(block, a, row, begin, y);
  }
}

/// The kernel for kRows rows of x and the weights' type.
template <int kRows>
BlockKernel FindKernel(WeightType type) {
  switch (type) {
    case WeightType::kF32:
      return DenseBlock<float, kRows>;
    case WeightType::kF16:
      return DenseBlock<hwy::float16_t, kRows>;
    case WeightType::kBF16:
      return DenseBlock<hwy::bfloat16_t, kRows>;
    case WeightType::kQ4_0:
      return QuantisedBlock<FormatQ4_0, kRows>;
    case WeightType::kQ4_1:
      return QuantisedBlock<FormatQ4_1, kRows>;
    case WeightType::kQ5_1:
      return QuantisedBlock<FormatQ5_1, kRows>;
    case WeightType::kQ5_0:
    case WeightType::kQ8_0:
      return QuantisedBlock<FormatQ8_0, kRows>;
    case WeightType::kQ4_K:
      return QuantisedBlock<FormatQ4_K, kRows>;
    case WeightType::kQ5_K:
      return QuantisedBlock<FormatQ5_K, kRows>;
    case WeightType::kQ6_K:
      return QuantisedBlock<FormatQ6_K, kRows>;
  }
  return nullptr;
}

}  // namespace HWY_NAMESPACE
}  // namespace nsa::kernels::cpu
HWY_AFTER_NAMESPACE();

#endif  // NSA_KERNELS_CPU_GEMM_BLOCK_INL_H_
