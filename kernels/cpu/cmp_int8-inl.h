// Scores of compressed rows that are 8-bit integers, compiled once for each Highway target: no
// include guard of the usual kind.
//
// Queries become 16-bit integers, so a score is an exact integer sum and two roundings: its bits
// depend on no order, and on no instruction set.
#if defined(NSA_KERNELS_CPU_CMP_INT8_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef NSA_KERNELS_CPU_CMP_INT8_INL_H_
#undef NSA_KERNELS_CPU_CMP_INT8_INL_H_
#else
#define NSA_KERNELS_CPU_CMP_INT8_INL_H_
#endif

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "hwy/highway.h"
#include "kernels/activation.h"
#include "kernels/cpu/attention-inl.h"
#include "kernels/cpu/dot_int16-inl.h"

HWY_BEFORE_NAMESPACE();
namespace nsa::kernels::cpu {
namespace HWY_NAMESPACE {

using I32Tag = hn::RebindToSigned<F32Tag>;

/// The largest head_dim whose sums fit in 32 bits: kActivationMax · 127 · 512 < 2^31.
inline constexpr int kMaxInt8HeadDim = 512;

/// Int8 rows of one page and KV head: keys [⌈head_dim/2⌉, rows, 2], scales and biases [rows].
struct Int8Rows {
  const int8_t* keys;
  const float* scales;
  const float* biases;
};

/// Pairs of keys, widened to 16 bits.
HWY_INLINE hn::Vec<I32Tag> LoadKeyPairs(const int8_t* from) {
  const I32Tag di;
#if HWY_TARGET == HWY_SCALAR
  return hn::Set(di, static_cast<int32_t>(static_cast<uint32_t>(from[1]) << 16 |
                                          (static_cast<uint32_t>(from[0]) & 0xFFFF)));
#else
  const hn::Repartition<int16_t, I32Tag> d16;
  const hn::Rebind<int8_t, decltype(d16)> d8;
  return hn::BitCast(di, hn::PromoteTo(d16, hn::LoadU(d8, from)));
#endif
}

/// Adds the upper half of a vector to the lower until `rows` lanes are left, and calls
/// body(tag, vector) with them.
template <class D, class Body>
HWY_INLINE void FoldTo(D d, hn::Vec<D> x, int rows, const Body& body) {
#if HWY_TARGET != HWY_SCALAR
  if constexpr (hn::MaxLanes(D()) > 1) {
    if (static_cast<int>(hn::Lanes(d)) > rows) {
      const hn::Half<D> half;
      FoldTo(half, hn::Add(hn::LowerHalf(half, x), hn::UpperHalf(half, x)), rows, body);
      return;
    }
  }
#else
  (void)rows;
#endif
  body(d, x);
}

/// scores[r] = sum·query_scale·scale[r] + bias[r] for the lanes of `sum`.
template <class DI>
HWY_INLINE void StoreInt8Scores(DI /*tag*/, hn::Vec<DI> sum, float query_scale,
                                const Int8Rows& rows, int row, float* scores) {
  const hn::RebindToFloat<DI> d;
  const auto scale = hn::Mul(hn::Set(d, query_scale), hn::LoadU(d, rows.scales + row));
  hn::StoreU(hn::MulAdd(hn::ConvertTo(d, sum), scale, hn::LoadU(d, rows.biases + row)), d,
             scores + row);
}

/// scores[q][page·rows + r] for kPages pages of fewer rows than a vector has lanes. `patterns`
/// [kQueries, num_pairs] are the queries' pairs laid out as the keys are; num_pairs is a multiple
/// of the vector. `next`: null, or as many pages to be read after these, which are fetched
/// meanwhile, line by line: a burst would fill the queues of the loads.
template <int kQueries, int kPages>
HWY_INLINE void ScoreInt8Pages(const Int8Rows* pages, const Int8Rows* next, int rows, int num_pairs,
                               const int32_t* HWY_RESTRICT patterns,
                               const float* HWY_RESTRICT query_scales, float* scores,
                               int64_t scores_stride) {
  const I32Tag di;
  const int lanes = static_cast<int>(hn::Lanes(di));
  hn::Vec<I32Tag> sum[kQueries][kPages];
  HWY_UNROLL(6)
  for (int q = 0; q < kQueries; ++q) {
    HWY_UNROLL(4)
    for (int p = 0; p < kPages; ++p) sum[q][p] = hn::Zero(di);
  }
  for (int i = 0; i < num_pairs; i += lanes) {
    hn::Vec<I32Tag> key[kPages];
    HWY_UNROLL(4)
    for (int p = 0; p < kPages; ++p) {
      key[p] = LoadKeyPairs(pages[p].keys + 2 * i);
      if (next != nullptr) PrefetchLines(next[p].keys + 2 * i, 1);
    }
    HWY_UNROLL(6)
    for (int q = 0; q < kQueries; ++q) {
      const auto x = hn::LoadU(di, patterns + int64_t{q} * num_pairs + i);
      HWY_UNROLL(4)
      for (int p = 0; p < kPages; ++p) sum[q][p] = DotPairs(key[p], x, sum[q][p]);
    }
  }
  HWY_UNROLL(6)
  for (int q = 0; q < kQueries; ++q) {
    HWY_UNROLL(4)
    for (int p = 0; p < kPages; ++p) {
      FoldTo(di, sum[q][p], rows, [&](auto tag, auto folded) {
        StoreInt8Scores(tag, folded, query_scales[q], pages[p], 0,
                        scores + q * scores_stride + p * rows);
      });
    }
  }
}

/// ScoreInt8Pages for as many pages as come, in blocks of kPages; returns the first that is left.
template <int kQueries, int kPages>
HWY_INLINE int ScoreInt8Blocks(const Int8Rows* pages, const Int8Rows* next, int first,
                               int num_pages, int rows, int num_pairs, const int32_t* patterns,
                               const float* query_scales, float* scores, int64_t scores_stride) {
  int page = first;
  for (; page + kPages <= num_pages; page += kPages) {
    const Int8Rows* fetched = next == nullptr ? nullptr : next + page;
    for (int p = 0; p < kPages && fetched != nullptr; ++p) {
      PrefetchLines(fetched[p].scales, 2 * rows);
    }
    ScoreInt8Pages<kQueries, kPages>(pages + page, fetched, rows, num_pairs, patterns, query_scales,
                                     scores + page * rows, scores_stride);
  }
  return page;
}

/// ScoreInt8Pages for any number of pages. With few queries four pages share each query's vectors.
template <int kQueries>
HWY_NOINLINE void ScoreInt8Patterns(const Int8Rows* pages, const Int8Rows* next, int num_pages,
                                    int rows, int num_pairs, const int32_t* patterns,
                                    const float* query_scales, float* scores,
                                    int64_t scores_stride) {
  int page = 0;
  if constexpr (kQueries <= 4) {
    page = ScoreInt8Blocks<kQueries, 4>(pages, next, page, num_pages, rows, num_pairs, patterns,
                                        query_scales, scores, scores_stride);
  }
  page = ScoreInt8Blocks<kQueries, 2>(pages, next, page, num_pages, rows, num_pairs, patterns,
                                      query_scales, scores, scores_stride);
  ScoreInt8Blocks<kQueries, 1>(pages, next, page, num_pages, rows, num_pairs, patterns,
                               query_scales, scores, scores_stride);
}

/// The same for a page of whole vectors of rows; `pairs` [kQueries, num_pairs] are the queries.
template <int kQueries>
HWY_NOINLINE void ScoreInt8Vectors(const Int8Rows& page, int rows, int num_pairs,
                                   const int32_t* HWY_RESTRICT pairs,
                                   const float* HWY_RESTRICT query_scales, float* scores,
                                   int64_t scores_stride) {
  const I32Tag di;
  for (int row = 0; row < rows; row += static_cast<int>(hn::Lanes(di))) {
    hn::Vec<I32Tag> sum[kQueries];
    for (int q = 0; q < kQueries; ++q) sum[q] = hn::Zero(di);
    for (int i = 0; i < num_pairs; ++i) {
      const auto key = LoadKeyPairs(page.keys + 2 * (int64_t{i} * rows + row));
      for (int q = 0; q < kQueries; ++q) {
        sum[q] = DotPairs(key, hn::Set(di, pairs[int64_t{q} * num_pairs + i]), sum[q]);
      }
    }
    for (int q = 0; q < kQueries; ++q) {
      StoreInt8Scores(di, sum[q], query_scales[q], page, row, scores + q * scores_stride);
    }
  }
}

/// q = x in 16-bit integers, 0 behind an odd last one; returns their scale: NaN where x is not
/// finite.
HWY_INLINE float QuantiseQuery(const float* HWY_RESTRICT x, int head_dim, int16_t* HWY_RESTRICT q) {
  const F32Tag d;
  const hn::Rebind<int16_t, F32Tag> d16;
  const int lanes = static_cast<int>(hn::Lanes(d));
  const float largest = LargestMagnitude(x, head_dim);
  const float inverse = kActivationMax / largest;
  if (head_dim % 2 != 0) q[head_dim] = 0;
  if (!std::isfinite(largest) || !std::isfinite(inverse)) {
    std::fill_n(q, head_dim, int16_t{0});
    return std::isfinite(largest) ? 0 : std::numeric_limits<float>::quiet_NaN();
  }
  int i = 0;
  for (; i + lanes <= head_dim; i += lanes) {
    const auto rounded = hn::NearestInt(hn::Mul(hn::LoadU(d, x + i), hn::Set(d, inverse)));
    hn::StoreU(hn::DemoteTo(d16, rounded), d16, q + i);
  }
  for (; i < head_dim; ++i) q[i] = static_cast<int16_t>(std::nearbyint(x[i] * inverse));
  return largest / kActivationMax;
}

/// out[dim][r] = the keys as they are, without their scale, for D's lanes of rows from `row` on.
template <class D>
HWY_INLINE void WidenRows(D d, const int8_t* keys, int head_dim, int rows, int row, float* out) {
  const hn::RebindToSigned<D> di;
  const hn::Rebind<int16_t, D> d16;
  for (int dim = 0; dim < head_dim; dim += 2) {
    const auto* from = reinterpret_cast<const int16_t*>(keys) + int64_t{dim / 2} * rows + row;
    const auto pair = hn::LoadU(d16, from);
    const auto even = hn::ShiftRight<8>(hn::ShiftLeft<8>(pair));
    hn::StoreU(hn::ConvertTo(d, hn::PromoteTo(di, even)), d, out + int64_t{dim} * rows + row);
    if (dim + 1 == head_dim) break;
    hn::StoreU(hn::ConvertTo(d, hn::PromoteTo(di, hn::ShiftRight<8>(pair))), d,
               out + int64_t{dim + 1} * rows + row);
  }
}

HWY_INLINE void WidenPage(const int8_t* keys, int head_dim, int rows, float* out) {
  const hn::CappedTag<float, 8> d;
  int row = 0;
  for (; row + static_cast<int>(hn::Lanes(d)) <= rows; row += static_cast<int>(hn::Lanes(d))) {
    WidenRows(d, keys, head_dim, rows, row, out);
  }
  for (; row < rows; ++row) WidenRows(F32Tail(), keys, head_dim, rows, row, out);
}

}  // namespace HWY_NAMESPACE
}  // namespace nsa::kernels::cpu
HWY_AFTER_NAMESPACE();

#endif  // NSA_KERNELS_CPU_CMP_INT8_INL_H_
