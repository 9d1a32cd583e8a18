// Vector functions of the attention operators, compiled once for each Highway target: no include
// guard of the usual kind.
//
// Keys are stored with tokens side by side, values with dimensions side by side. So each score and
// each output component is one chain of multiply-adds in one lane, and its bits do not depend on
// the number of lanes or on how many queries share a pass.
#if defined(NSA_KERNELS_CPU_ATTENTION_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef NSA_KERNELS_CPU_ATTENTION_INL_H_
#undef NSA_KERNELS_CPU_ATTENTION_INL_H_
#else
#define NSA_KERNELS_CPU_ATTENTION_INL_H_
#endif

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "hwy/highway.h"
#include "kernels/cpu/element_vectors-inl.h"
#include "kernels/cpu/math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace nsa::kernels::cpu {
namespace HWY_NAMESPACE {

inline constexpr float kNegativeInfinity = -std::numeric_limits<float>::infinity();

/// Queries that share one pass over keys or values: what fits in registers beside kTileVectors
/// vectors of each (24 of 32 registers with AVX-512, 12 of 16 else).
inline constexpr int kTileQueries = 6;

template <class D>
constexpr size_t TileVectors() {
  return hn::MaxLanes(D()) >= 16 ? 4 : 2;
}

/// rows[q][token] *= scales[token] for the whole vectors that cover tokens [begin, end).
HWY_INLINE void ScaleTokens(const float* HWY_RESTRICT scales, int begin, int end, int num_rows,
                            float* HWY_RESTRICT rows, int64_t rows_stride) {
  const F32Tag d;
  const int lanes = static_cast<int>(hn::Lanes(d));
  for (int token = begin / lanes * lanes; token < end; token += lanes) {
    const auto scale = hn::LoadU(d, scales + token);
    for (int q = 0; q < num_rows; ++q) {
      float* row = rows + q * rows_stride + token;
      hn::StoreU(hn::Mul(hn::LoadU(d, row), scale), d, row);
    }
  }
}

/// out = x rotated by one row of a rotary table; dimensions from 2·half on are copied. The vector
/// and the scalar part do the same rounding steps, none fused, as the reference does.
HWY_INLINE void RotateRow(const float* HWY_RESTRICT cosines, const float* HWY_RESTRICT sines,
                          int half, int head_dim, const float* HWY_RESTRICT x,
                          float* HWY_RESTRICT out) {
  const F32Tag d;
  const int lanes = static_cast<int>(hn::Lanes(d));
  int i = 0;
  for (; i + lanes <= half; i += lanes) {
    const auto c = hn::LoadU(d, cosines + i);
    const auto s = hn::LoadU(d, sines + i);
    const auto a = hn::LoadU(d, x + i);
    const auto b = hn::LoadU(d, x + i + half);
    hn::StoreU(hn::Sub(hn::Mul(a, c), hn::Mul(b, s)), d, out + i);
    hn::StoreU(hn::Add(hn::Mul(b, c), hn::Mul(a, s)), d, out + i + half);
  }
  for (; i < half; ++i) {
    const float a = x[i];
    const float b = x[i + half];
    out[i] = a * cosines[i] - b * sines[i];
    out[i + half] = b * cosines[i] + a * sines[i];
  }
  for (i = 2 * half; i < head_dim; ++i) out[i] = x[i];
}

/// Asks for the cache lines of `count` elements: pages are scattered, so the hardware cannot guess.
/// Into the second-level cache: the few fill buffers of the first are for what is read now.
template <typename T>
HWY_INLINE void PrefetchLines(const T* from, int count) {
  const char* bytes = reinterpret_cast<const char*>(from);
  for (int i = 0; i < count * static_cast<int>(sizeof(T)); i += 64) {
    __builtin_prefetch(bytes + i, /*rw=*/0, /*locality=*/2);
  }
}

/// scores[q][token] = Σ_dim queries[q][dim]·k[dim][token] for kVectors vectors of tokens and
/// kQueries queries. `k` points at the first of these tokens.
/// kPrefetch: `next` is the page to be read after this one; its keys are fetched meanwhile.
template <int kQueries, size_t kVectors, bool kPrefetch = false, class D, typename T>
HWY_INLINE void ScoreTile(D d, const T* HWY_RESTRICT k, int64_t k_stride, int head_dim,
                          const float* HWY_RESTRICT queries, float* HWY_RESTRICT scores,
                          int64_t scores_stride, const T* next = nullptr) {
  hn::Vec<D> sum[kQueries][kVectors];
  for (int q = 0; q < kQueries; ++q) {
    for (size_t v = 0; v < kVectors; ++v) sum[q][v] = hn::Zero(d);
  }
  for (int dim = 0; dim < head_dim; ++dim) {
    if constexpr (kPrefetch) PrefetchLines(next + dim * k_stride, kPageSize);
    hn::Vec<D> key[kVectors];
    LoadVectors<kVectors>(d, k + dim * k_stride, key);
    for (int q = 0; q < kQueries; ++q) {
      const auto x = hn::Set(d, queries[q * head_dim + dim]);
      for (size_t v = 0; v < kVectors; ++v) sum[q][v] = hn::MulAdd(x, key[v], sum[q][v]);
    }
  }
  for (int q = 0; q < kQueries; ++q) {
    StoreVectorsOf<T, kVectors>(d, sum[q], scores + q * scores_stride);
  }
}

/// acc[q][dim] = acc[q][dim]·factors[q] + Σ_token weights[q][token]·v[token][dim] over tokens
/// [begin, end), for kVectors vectors of dimensions from the first of `v` and of acc[q] on.
template <int kQueries, size_t kVectors, bool kPrefetch = false, class D, typename T>
HWY_INLINE void ValueTile(D d, const T* HWY_RESTRICT v, int64_t v_stride, int begin, int end,
                          const float* HWY_RESTRICT weights, int64_t weights_stride,
                          const float* HWY_RESTRICT factors, float* const* acc, int dim,
                          const T* next = nullptr) {
  hn::Vec<D> sum[kQueries][kVectors];
  for (int q = 0; q < kQueries; ++q) {
    const auto factor = hn::Set(d, factors[q]);
    LoadVectorsOf<T, kVectors>(d, acc[q] + dim, sum[q]);
    for (size_t i = 0; i < kVectors; ++i) sum[q][i] = hn::Mul(sum[q][i], factor);
  }
  for (int token = begin; token < end; ++token) {
    if constexpr (kPrefetch) {
      PrefetchLines(next + token * v_stride + dim, static_cast<int>(kVectors * hn::Lanes(d)));
    }
    hn::Vec<D> value[kVectors];
    LoadVectors<kVectors>(d, v + token * v_stride + dim, value);
    for (int q = 0; q < kQueries; ++q) {
      const auto p = hn::Set(d, weights[q * weights_stride + token]);
      for (size_t i = 0; i < kVectors; ++i) sum[q][i] = hn::MulAdd(p, value[i], sum[q][i]);
    }
  }
  for (int q = 0; q < kQueries; ++q) StoreVectorsOf<T, kVectors>(d, sum[q], acc[q] + dim);
}

/// Scores of kQueries queries for the whole vectors that cover rows [begin, end) of a page. `next`:
/// null, or the keys to be read after these.
template <int kQueries, typename T>
HWY_NOINLINE void ScoreRows(const T* k, int64_t k_stride, int begin, int end, int head_dim,
                            const float* queries, float* scores, int64_t scores_stride,
                            const T* next = nullptr) {
  const F32Tag d;
  constexpr size_t kVectors = TileVectors<F32Tag>();
  const int lanes = static_cast<int>(hn::Lanes(d));
  const int wide = lanes * static_cast<int>(kVectors);
  int row = begin / lanes * lanes;
  if (next != nullptr && row + wide - lanes < end) {
    ScoreTile<kQueries, kVectors, true>(d, k + row, k_stride, head_dim, queries, scores + row,
                                        scores_stride, next);
    row += wide;
  }
  for (; row + wide - lanes < end; row += wide) {
    ScoreTile<kQueries, kVectors>(d, k + row, k_stride, head_dim, queries, scores + row,
                                  scores_stride);
  }
  for (; row < end; row += lanes) {
    ScoreTile<kQueries, 1>(d, k + row, k_stride, head_dim, queries, scores + row, scores_stride);
  }
}

/// ValueTile over all dimensions. `next`: null, or the values to be read after these.
template <int kQueries, typename T>
HWY_NOINLINE void AddValues(const T* v, int head_dim, int begin, int end, const float* weights,
                            int64_t weights_stride, const float* factors, float* const* acc,
                            const T* next = nullptr) {
  const F32Tag d;
  constexpr size_t kVectors = TileVectors<F32Tag>();
  const int lanes = static_cast<int>(hn::Lanes(d));
  const int wide = lanes * static_cast<int>(kVectors);
  int dim = 0;
  for (; next != nullptr && dim + wide <= head_dim; dim += wide) {
    ValueTile<kQueries, kVectors, true>(d, v, head_dim, begin, end, weights, weights_stride,
                                        factors, acc, dim, next);
  }
  for (; dim + wide <= head_dim; dim += wide) {
    ValueTile<kQueries, kVectors>(d, v, head_dim, begin, end, weights, weights_stride, factors, acc,
                                  dim);
  }
  for (; dim + lanes <= head_dim; dim += lanes) {
    ValueTile<kQueries, 1>(d, v, head_dim, begin, end, weights, weights_stride, factors, acc, dim);
  }
  for (; dim < head_dim; ++dim) {
    ValueTile<kQueries, 1>(F32Tail(), v, head_dim, begin, end, weights, weights_stride, factors,
                           acc, dim);
  }
}

/// Calls body(std::integral_constant<int, count>) for blocks of at most kTileQueries out of
/// `num_queries`, as even as can be: body(count, first).
template <typename Body>
HWY_INLINE void ForEachQueryBlock(int num_queries, Body&& body) {
  const int num_blocks = (num_queries + kTileQueries - 1) / kTileQueries;
  int first = 0;
  for (int b = 0; b < num_blocks; ++b) {
    const int count = (num_queries - first) / (num_blocks - b);
    switch (count) {
      case 1:
        body(std::integral_constant<int, 1>(), first);
        break;
      case 2:
        body(std::integral_constant<int, 2>(), first);
        break;
      case 3:
        body(std::integral_constant<int, 3>(), first);
        break;
      case 4:
        body(std::integral_constant<int, 4>(), first);
        break;
      case 5:
        body(std::integral_constant<int, 5>(), first);
        break;
      default:
        body(std::integral_constant<int, 6>(), first);
        break;
    }
    first += count;
  }
}

/// A running softmax: weights are exp(score − maximum), `sum` adds them up.
struct Softmax {
  float maximum;
  float sum;
};

HWY_INLINE float ScalarExp(float x) {
  const F32Tail d;
  return hn::GetLane(Exp(d, hn::Set(d, x)));
}

/// Zero where nothing is visible yet, so that −inf − −inf never happens.
HWY_INLINE float FiniteMaximum(float maximum) { return maximum == kNegativeInfinity ? 0 : maximum; }

/// e^x for the arguments of a softmax: x ≤ 0 or a rounding error above. Shorter than Exp; what is
/// below the normal numbers gives 0, NaN stays NaN.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V ExpOfSoftmax(D d, V x) {
  const hn::RebindToSigned<D> di;
  // Added to a small number it leaves the nearest integer in the low bits: cheaper than
  // conversions.
  const V shifter = hn::Set(d, 12582912.0f);  // 1.5 · 2^23
  const V shifted = hn::MulAdd(x, hn::Set(d, 1.44269502f), shifter);
  const V n_float = hn::Sub(shifted, shifter);
  // ln(2) in two parts; the first product is exact.
  const V r = hn::NegMulAdd(n_float, hn::Set(d, 1.740930602e-3f),
                            hn::NegMulAdd(n_float, hn::Set(d, 0.69140625f), x));
  // The shifter's own bits fall out at the top.
  const V scale =
      hn::BitCast(d, hn::ShiftLeft<23>(hn::Add(hn::BitCast(di, shifted), hn::Set(di, 127))));
  return hn::IfThenZeroElse(hn::Lt(x, hn::Set(d, -87.0f)), hn::Mul(ExpReduced(d, r), scale));
}

/// Masks scores outside of [begin, end) in the vectors that cover it, and returns the maximum.
HWY_INLINE float MaskAndMaximum(int begin, int end, float* HWY_RESTRICT scores) {
  const F32Tag d;
  const hn::RebindToSigned<F32Tag> di;
  const int lanes = static_cast<int>(hn::Lanes(d));
  const auto minus_infinity = hn::Set(d, kNegativeInfinity);
  auto maximum = minus_infinity;
  for (int row = begin / lanes * lanes; row < end; row += lanes) {
    auto score = hn::LoadU(d, scores + row);
    if (row < begin || row + lanes > end) {
      const auto index = hn::Iota(di, row);
      const auto inside =
          hn::And(hn::Gt(index, hn::Set(di, begin - 1)), hn::Lt(index, hn::Set(di, end)));
      score = hn::IfThenElse(hn::RebindMask(d, inside), score, minus_infinity);
      hn::StoreU(score, d, scores + row);
    }
    maximum = hn::Max(maximum, score);
  }
  return hn::GetLane(hn::MaxOfLanes(d, maximum));
}

/// For each query turns the scores of rows [begin, end) into weights in place (0 for the other rows
/// of these vectors), takes them into its softmax, and leaves in `factors` what the sums so far are
/// to be multiplied by.
template <int kQueries>
HWY_INLINE void SoftmaxStep(int begin, int end, float* HWY_RESTRICT scores, int64_t scores_stride,
                            Softmax* const* states, float* HWY_RESTRICT factors) {
  const F32Tag d;
  const int lanes = static_cast<int>(hn::Lanes(d));
  // One vector of exponentials for all queries, not one of a single lane for each.
  float changes[16] = {};
  float origins[kQueries];
  for (int q = 0; q < kQueries; ++q) {
    const float before = states[q]->maximum;
    const float maximum = MaskAndMaximum(begin, end, scores + q * scores_stride);
    states[q]->maximum = before > maximum ? before : maximum;
    origins[q] = FiniteMaximum(states[q]->maximum);
    changes[q] = before - origins[q];
  }
  for (int q = 0; q < kQueries; q += lanes) {
    hn::StoreU(ExpOfSoftmax(d, hn::LoadU(d, changes + q)), d, changes + q);
  }
  for (int q = 0; q < kQueries; ++q) {
    float* query_scores = scores + q * scores_stride;
    auto sum = hn::Zero(d);
    for (int row = begin / lanes * lanes; row < end; row += lanes) {
      const auto score = hn::LoadU(d, query_scores + row);
      const auto weight = ExpOfSoftmax(d, hn::Sub(score, hn::Set(d, origins[q])));
      hn::StoreU(weight, d, query_scores + row);
      sum = hn::Add(sum, weight);
    }
    factors[q] = changes[q];
    states[q]->sum = states[q]->sum * factors[q] + hn::GetLane(hn::SumOfLanes(d, sum));
  }
}

/// Adds the part (softmax, acc) to (total, total_acc), both sums of weighted values.
HWY_INLINE void JoinSoftmax(const Softmax& part, const float* HWY_RESTRICT acc, int head_dim,
                            Softmax& total, float* HWY_RESTRICT total_acc) {
  const float maximum = total.maximum > part.maximum ? total.maximum : part.maximum;
  const float origin = FiniteMaximum(maximum);
  const float total_factor = ScalarExp(total.maximum - origin);
  const float part_factor = ScalarExp(part.maximum - origin);
  total.maximum = maximum;
  total.sum = total.sum * total_factor + part.sum * part_factor;
  const F32Tag d;
  const int lanes = static_cast<int>(hn::Lanes(d));
  int dim = 0;
  for (; dim + lanes <= head_dim; dim += lanes) {
    const auto x = hn::Mul(hn::LoadU(d, total_acc + dim), hn::Set(d, total_factor));
    const auto y = hn::Mul(hn::LoadU(d, acc + dim), hn::Set(d, part_factor));
    hn::StoreU(hn::Add(x, y), d, total_acc + dim);
  }
  for (; dim < head_dim; ++dim) {
    total_acc[dim] = total_acc[dim] * total_factor + acc[dim] * part_factor;
  }
}

/// The result of a finished softmax: out = acc / sum and the log-sum-exp; 0 and −inf where it is
/// empty.
HWY_INLINE void FinishSoftmax(const Softmax& total, const float* HWY_RESTRICT acc, int head_dim,
                              float* HWY_RESTRICT out, float* lse) {
  const bool empty = total.sum == 0;
  if (lse != nullptr) *lse = empty ? kNegativeInfinity : total.maximum + std::log(total.sum);
  if (out == nullptr) return;
  const float inverse = empty ? 0.0f : 1.0f / total.sum;
  for (int dim = 0; dim < head_dim; ++dim) out[dim] = acc[dim] * inverse;
}

}  // namespace HWY_NAMESPACE
}  // namespace nsa::kernels::cpu
HWY_AFTER_NAMESPACE();

#endif  // NSA_KERNELS_CPU_ATTENTION_INL_H_
