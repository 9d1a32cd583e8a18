#ifndef NSA_KERNELS_CUDA_GEMM_QUANTISED_H_
#define NSA_KERNELS_CUDA_GEMM_QUANTISED_H_

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/device.h"
#include "kernels/cuda/elements.h"
#include "kernels/cuda/gemm.h"
#include "kernels/cuda/packed_matrix.h"

/// What the kernels for few and for many rows share: reading units of quantised W, and products of
/// a step. Sums of a step are integers, so that it does not matter which warp makes them; what is
/// float goes in the order of ops/gemm.h.
namespace nsa::kernels::cuda {

/// QuantFormat and UnitLayout as numbers: device code may not use a constant of class type.
template <WeightType kType>
struct Format {
  static constexpr int kLowBits = QuantFormatOf(kType).low_bits;
  static constexpr int kHighBits = QuantFormatOf(kType).high_bits;
  static constexpr int kOffset = QuantFormatOf(kType).offset;
  static constexpr bool kHasMinimum = QuantFormatOf(kType).has_minimum;
  static constexpr bool kHasSupers = QuantFormatOf(kType).has_supers;
  static constexpr int kScales = QuantFormatOf(kType).scales_per_step;
  static constexpr int kHighBegin = UnitLayoutOf(kType).high;
  static constexpr int kCoefficientsBegin = UnitLayoutOf(kType).coefficients;
  static constexpr int kUnitColumns = UnitLayoutOf(kType).columns;
  static constexpr int kUnitBytes = UnitLayoutOf(kType).end;
};

/// A lane's share of q in a unit.
template <WeightType kType>
struct UnitShare {
  using F = Format<kType>;

  /// By load(const U32x4*).
  template <typename Load>
  NSA_DEVICE void Read(const std::byte* unit, Load&& load) {
    NSA_UNROLL
    for (int i = 0; i < F::kLowBits / 4; ++i) {
      low[i] = load(reinterpret_cast<const U32x4*>(unit) + i * kWarpSize + LaneIndex());
    }
    NSA_UNROLL
    for (int i = 0; i < F::kHighBits; ++i) {
      high[i] =
          reinterpret_cast<const uint32_t*>(unit + F::kHighBegin)[i * kWarpSize + LaneIndex()];
    }
  }

  /// Registers of A of one step: bytes, of which the offset is not yet subtracted.
  NSA_DEVICE void Unpack(int step, uint32_t (&a)[4]) const {
    NSA_UNROLL
    for (int i = 0; i < 4; ++i) {
      if constexpr (F::kLowBits == 8) {
        a[i] = step == 0 ? low[0].x[i] : low[1].x[i];
      } else {
        a[i] = low[0].x[i] >> (4 * step) & 0x0F0F0F0Fu;
      }
      if constexpr (F::kHighBits == 1) {
        a[i] |= high[0] >> (4 * step) << (4 - i) & 0x10101010u;
      } else if constexpr (F::kHighBits == 2) {
        const uint32_t of_step = step == 0 ? high[0] : high[1];
        a[i] |= (i < 2 ? of_step << (4 - 2 * i) : of_step >> (2 * i - 4)) & 0x30303030u;
      }
    }
  }

  U32x4 low[F::kLowBits / 4];
  uint32_t high[F::kHighBits == 0 ? 1 : F::kHighBits];
};

/// Of one output and step.
template <WeightType kType>
struct Coefficients {
  float scale[Format<kType>::kScales];
  float minimum;  // where the format has one
};

/// Of row r of a block, `supers` those of the 256 columns.
template <WeightType kType>
NSA_DEVICE Coefficients<kType> LoadCoefficients(const std::byte* unit, const std::byte* supers,
                                                int step, int r) {
  using F = Format<kType>;
  const std::byte* from = unit + F::kCoefficientsBegin;
  const int i = step * kBlockRows + r;
  const auto half = [](uint32_t bits) { return ToFloat(F16{static_cast<uint16_t>(bits)}); };
  Coefficients<kType> c = {};
  if constexpr (F::kHasMinimum && !F::kHasSupers) {
    const uint32_t both = reinterpret_cast<const uint32_t*>(from)[i];
    c.scale[0] = half(both);
    c.minimum = half(both >> 16);
  } else if constexpr (!F::kHasSupers) {
    c.scale[0] = half(reinterpret_cast<const uint16_t*>(from)[i]);
  } else {
    const uint32_t small = reinterpret_cast<const uint16_t*>(from)[i];
    const uint32_t super = reinterpret_cast<const uint32_t*>(supers)[r];
    if constexpr (F::kHasMinimum) {
      c.scale[0] = half(super) * static_cast<float>(small & 0xFF);
      c.minimum = -(half(super >> 16) * static_cast<float>(small >> 8));
    } else {
      c.scale[0] = half(super) * static_cast<float>(static_cast<int8_t>(small & 0xFF));
      c.scale[1] = half(super) * static_cast<float>(static_cast<int8_t>(small >> 8));
    }
  }
  return c;
}

/// The sums of scale `kScale` of a step, of q with their offset: d ← 256·(A·high) + A·low + first,
/// `first` for the fragment's two rows of x.
template <WeightType kType, int kScale>
NSA_DEVICE void StepProducts(const uint32_t (&a)[4], const U32x4& x, const int32_t (&first)[2],
                             int32_t (&d)[4]) {
  d[0] = d[1] = d[2] = d[3] = 0;
  if constexpr (Format<kType>::kScales == 1) {
    const uint32_t high[2] = {x.x[0], x.x[1]}, low[2] = {x.x[2], x.x[3]};
    MmaInt8(d, a, high);
    NSA_UNROLL
    for (int i = 0; i < 4; ++i) d[i] = d[i] * 256 + first[i % 2];
    MmaInt8(d, a, low);
  } else {
    const uint32_t half[2] = {a[2 * kScale], a[2 * kScale + 1]};
    const uint32_t high[1] = {x.x[kScale]}, low[1] = {x.x[2 + kScale]};
    MmaInt8(d, half, high);
    NSA_UNROLL
    for (int i = 0; i < 4; ++i) d[i] = d[i] * 256 + first[i % 2];
    MmaInt8(d, half, low);
  }
}

/// What belongs to a step of a row of x, from its layout (gemm.h).
struct XStep {
  float scale;
  float scaled_sum;
  int32_t sums[2];  // of 16 columns each
};

/// What Σ q·x is corrected by, for scale `kScale` of a step.
template <WeightType kType, int kScale>
NSA_DEVICE int32_t Correction(const XStep& x) {
  using F = Format<kType>;
  if constexpr (F::kOffset == 0) return 0;
  const int32_t sum = F::kScales == 1 ? x.sums[0] + x.sums[1] : x.sums[kScale];
  return -F::kOffset * sum;
}

/// The chain of ops/gemm.h: one scale's share of a step.
NSA_DEVICE float AddScaled(int32_t product, float scale, float x_scale, float sum) {
  return Fma(static_cast<float>(product), scale * x_scale, sum);
}

}  // namespace nsa::kernels::cuda

#endif  // NSA_KERNELS_CUDA_GEMM_QUANTISED_H_
