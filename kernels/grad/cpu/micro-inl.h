// Small matrix products held in registers, and the rows of a softmax, compiled once for each
// Highway target: no include guard of the usual kind.
//
// Each element of a product is one chain of multiply-adds in one lane, in rising order of the
// summed index; so its bits depend neither on the number of lanes nor on the split into tiles.
#if defined(NSA_KERNELS_GRAD_CPU_MICRO_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef NSA_KERNELS_GRAD_CPU_MICRO_INL_H_
#undef NSA_KERNELS_GRAD_CPU_MICRO_INL_H_
#else
#define NSA_KERNELS_GRAD_CPU_MICRO_INL_H_
#endif

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "hwy/highway.h"
#include "kernels/cpu/attention-inl.h"

HWY_BEFORE_NAMESPACE();
namespace nsa::kernels::grad::cpu {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;
namespace base = kernels::cpu::HWY_NAMESPACE;

using base::F32Tag;
using base::ForEachQueryBlock;
using base::kNegativeInfinity;
using base::kTileQueries;

inline constexpr size_t kTileVectors = base::TileVectors<F32Tag>();

HWY_INLINE int Lanes() { return static_cast<int>(hn::Lanes(F32Tag())); }

/// Sums in registers: kRows rows of kVectors vectors.
template <int kRows, size_t kVectors>
struct Sums {
  hn::Vec<F32Tag> sum[kRows][kVectors];

  HWY_INLINE void Clear() {
    for (int m = 0; m < kRows; ++m) {
      for (size_t i = 0; i < kVectors; ++i) sum[m][i] = hn::Zero(F32Tag());
    }
  }
  HWY_INLINE void Load(int m, const float* from) {
    for (size_t i = 0; i < kVectors; ++i) {
      sum[m][i] = hn::LoadU(F32Tag(), from + i * hn::Lanes(F32Tag()));
    }
  }
  HWY_INLINE void Store(int m, float* to) const {
    for (size_t i = 0; i < kVectors; ++i) {
      hn::StoreU(sum[m][i], F32Tag(), to + i * hn::Lanes(F32Tag()));
    }
  }
  /// Adds factor(m)·row for every m.
  template <typename Factor>
  HWY_INLINE void Add(const float* HWY_RESTRICT row, const Factor& factor) {
    const F32Tag d;
    hn::Vec<F32Tag> value[kVectors];
    for (size_t i = 0; i < kVectors; ++i) value[i] = hn::LoadU(d, row + i * hn::Lanes(d));
    for (int m = 0; m < kRows; ++m) {
      const auto f = hn::Set(d, factor(m));
      for (size_t i = 0; i < kVectors; ++i) sum[m][i] = hn::MulAdd(f, value[i], sum[m][i]);
    }
  }
};

/// Calls body(std::integral_constant<size_t, vectors>, column) over columns [begin, end), which are
/// whole vectors.
template <typename Body>
HWY_INLINE void ForEachColumnTile(int begin, int end, Body&& body) {
  const int lanes = Lanes();
  constexpr int kWide = static_cast<int>(kTileVectors);
  int column = begin;
  for (; column + kWide * lanes <= end; column += kWide * lanes) {
    body(std::integral_constant<size_t, kTileVectors>(), column);
  }
  if constexpr (kTileVectors == 4) {
    if (column + 3 * lanes <= end) {
      body(std::integral_constant<size_t, 3>(), column);
      return;
    }
    if (column + 2 * lanes <= end) {
      body(std::integral_constant<size_t, 2>(), column);
      return;
    }
  }
  if (column + lanes <= end) body(std::integral_constant<size_t, 1>(), column);
}

/// out[m][n] = Σ_{k in [k_begin, k_end)} a[m][k]·b[k·b_stride + n] for kRows rows and columns n in
/// [n_begin, n_end); added to what is there where kAdd.
template <int kRows, bool kAdd>
HWY_NOINLINE void Multiply(const float* const* a, int k_begin, int k_end,
                           const float* HWY_RESTRICT b, int64_t b_stride, float* const* out,
                           int n_begin, int n_end) {
  ForEachColumnTile(n_begin, n_end, [&](auto vectors, int n) {
    Sums<kRows, vectors.value> sums;
    if constexpr (kAdd) {
      for (int m = 0; m < kRows; ++m) sums.Load(m, out[m] + n);
    } else {
      sums.Clear();
    }
    const float* rows[kRows];
    for (int m = 0; m < kRows; ++m) rows[m] = a[m];
    const float* row = b + k_begin * b_stride + n;
    for (int k = k_begin; k < k_end; ++k, row += b_stride) {
      sums.Add(row, [&](int m) { return rows[m][k]; });
    }
    for (int m = 0; m < kRows; ++m) sums.Store(m, out[m] + n);
  });
}

/// out[m·out_stride + n] += Σ_{k < num_k} a[k·a_stride + m]·b[k][n] for kRows rows and columns n in
/// [0, n_end).
template <int kRows>
HWY_NOINLINE void AddTransposed(const float* HWY_RESTRICT a, int64_t a_stride,
                                const float* const* b, int num_k, float* HWY_RESTRICT out,
                                int64_t out_stride, int n_end) {
  ForEachColumnTile(0, n_end, [&](auto vectors, int n) {
    Sums<kRows, vectors.value> sums;
    for (int m = 0; m < kRows; ++m) sums.Load(m, out + m * out_stride + n);
    const float* factors = a;
    for (int k = 0; k < num_k; ++k, factors += a_stride) {
      sums.Add(b[k] + n, [&](int m) { return factors[m]; });
    }
    for (int m = 0; m < kRows; ++m) sums.Store(m, out + m * out_stride + n);
  });
}

/// Lanes of the vector at `column` that are in [begin, end).
HWY_INLINE hn::Mask<F32Tag> Inside(int column, int begin, int end) {
  const F32Tag d;
  const hn::RebindToSigned<F32Tag> di;
  const auto index = hn::Iota(di, column);
  return hn::RebindMask(
      d, hn::And(hn::Gt(index, hn::Set(di, begin - 1)), hn::Lt(index, hn::Set(di, end))));
}

/// Sums of a row's weights are kept in this many lanes, whatever the target's, for equal bits.
inline constexpr int kSumLanes = 16;

// One query head's softmax so far: the maximum of its unscaled scores, weights exp(scale·(score −
// maximum)), their sums [kSumLanes], and acc, the sum of weighted values.

/// Takes the maximum of a row's scores at columns [begin, end) into its own; the sums so far
/// follow. Columns [first, last) are whole vectors around it; the others become −inf.
HWY_INLINE void UpdateMaximum(int begin, int end, int first, int last, float scale,
                              float* HWY_RESTRICT scores, float& row_maximum,
                              float* HWY_RESTRICT sums, float* HWY_RESTRICT acc, int dim_v) {
  const F32Tag d;
  const int lanes = Lanes();
  auto maximum = hn::Set(d, kNegativeInfinity);
  for (int column = first; column < last; column += lanes) {
    auto score = hn::LoadU(d, scores + column);
    if (column < begin || column + lanes > end) {
      score = hn::IfThenElse(Inside(column, begin, end), score, hn::Set(d, kNegativeInfinity));
      hn::StoreU(score, d, scores + column);
    }
    maximum = hn::Max(maximum, score);
  }
  // Seldom so, after the first keys: no maximum over lanes else.
  if (hn::AllFalse(d, hn::Gt(maximum, hn::Set(d, row_maximum)))) return;
  const float before = row_maximum;
  row_maximum = hn::GetLane(hn::MaxOfLanes(d, maximum));
  const auto factor = base::ExpOfSoftmax(d, hn::Set(d, scale * (before - row_maximum)));
  for (int i = 0; i < kSumLanes; i += lanes) {
    hn::StoreU(hn::Mul(hn::LoadU(d, sums + i), factor), d, sums + i);
  }
  for (int dim = 0; dim < dim_v; dim += lanes) {
    hn::StoreU(hn::Mul(hn::LoadU(d, acc + dim), factor), d, acc + dim);
  }
}

/// Scores to weights in place, for columns [first, last), added to the row's sums.
HWY_INLINE void ToWeights(int first, int last, float scale, float maximum,
                          float* HWY_RESTRICT scores, float* HWY_RESTRICT sums) {
  const F32Tag d;
  const int lanes = Lanes();
  const auto factor = hn::Set(d, scale);
  const auto origin = hn::Set(d, scale * base::FiniteMaximum(maximum));
  for (int column = first; column < last; column += lanes) {
    const auto score = hn::LoadU(d, scores + column);
    const auto weight = base::ExpOfSoftmax(d, hn::MulSub(score, factor, origin));
    hn::StoreU(weight, d, scores + column);
    float* lanes_sums = sums + column % kSumLanes;
    hn::StoreU(hn::Add(hn::LoadU(d, lanes_sums), weight), d, lanes_sums);
  }
}

/// Scores to probabilities in place, and gradients of probabilities to those of scores, for a row
/// that sees columns [begin, end) of [first, last): p = exp(scale·s − lse), ds = p·(dp − delta)·
/// scale. Both are 0 where it sees nothing.
HWY_INLINE void ToGradients(int begin, int end, int first, int last, float scale, float lse,
                            float delta, float* HWY_RESTRICT scores, float* HWY_RESTRICT grads) {
  const F32Tag d;
  const int lanes = Lanes();
  const auto factor = hn::Set(d, scale);
  for (int column = first; column < last; column += lanes) {
    const auto score = hn::LoadU(d, scores + column);
    auto p = base::ExpOfSoftmax(d, hn::MulSub(score, factor, hn::Set(d, lse)));
    if (column < begin || column + lanes > end) {
      p = hn::IfThenElseZero(Inside(column, begin, end), p);
    }
    hn::StoreU(p, d, scores + column);
    const auto change = hn::Sub(hn::LoadU(d, grads + column), hn::Set(d, delta));
    hn::StoreU(hn::Mul(hn::Mul(p, factor), change), d, grads + column);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace nsa::kernels::grad::cpu
HWY_AFTER_NAMESPACE();

#endif  // NSA_KERNELS_GRAD_CPU_MICRO_INL_H_
