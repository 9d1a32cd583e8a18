// From the scores of clusters to those of their pages, compiled once for each Highway target: no
// include guard of the usual kind.
#if defined(NSA_KERNELS_CPU_SCORE_CLUSTERS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef NSA_KERNELS_CPU_SCORE_CLUSTERS_INL_H_
#undef NSA_KERNELS_CPU_SCORE_CLUSTERS_INL_H_
#else
#define NSA_KERNELS_CPU_SCORE_CLUSTERS_INL_H_
#endif

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "hwy/highway.h"
#include "kernels/cpu/cmp_scores-inl.h"
#include "kernels/cpu/score_call.h"
#include "kernels/cpu/score_keys-inl.h"

HWY_BEFORE_NAMESPACE();
namespace nsa::kernels::cpu {
namespace HWY_NAMESPACE {

/// Adds neighbours until one sum is left of each page: the order is that of a tree. Overwrites
/// sums[num_pages·rows]; two vectors behind them can be read and written.
HWY_INLINE void AddUpPages(int64_t num_pages, int rows, float* HWY_RESTRICT sums) {
  for (int64_t size = num_pages * rows / 2; size >= num_pages && rows > 1; size /= 2, rows /= 2) {
#if HWY_TARGET == HWY_SCALAR
    for (int64_t i = 0; i < size; ++i) sums[i] = sums[2 * i] + sums[2 * i + 1];
#else
    const F32Tag d;
    const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
    for (int64_t i = 0; i < size; i += lanes) {
      const auto low = hn::LoadU(d, sums + 2 * i);
      const auto high = hn::LoadU(d, sums + 2 * i + lanes);
      hn::StoreU(hn::Add(hn::ConcatEven(d, high, low), hn::ConcatOdd(d, high, low)), d, sums + i);
    }
#endif
  }
}

/// e^x for the arguments of a softmax, as ExpOfSoftmax but for a relative error of 3e-6: a choice
/// needs no more (coefficients: least maximum of the relative error, by Remez' exchange).
template <class D, class V = hn::Vec<D>>
HWY_INLINE V ExpOfScore(D d, V x) {
  const hn::RebindToSigned<D> di;
  // As in ExpOfSoftmax; the exponent's bias is in the shifter too.
  const V shifter = hn::Set(d, 12583039.0f);  // 1.5 · 2^23 + 127
  const V shifted = hn::MulAdd(x, hn::Set(d, 1.44269502f), shifter);
  const V r = hn::NegMulAdd(hn::Sub(shifted, shifter), hn::Set(d, 0.693147182f), x);
  V p = hn::Set(d, 4.14584004e-2f);
  p = hn::MulAdd(p, r, hn::Set(d, 1.67910306e-1f));
  p = hn::MulAdd(p, r, hn::Set(d, 5.00043674e-1f));
  p = hn::MulAdd(p, r, hn::Set(d, 9.99963333e-1f));
  p = hn::MulAdd(p, r, hn::Set(d, 9.99999259e-1f));
  const V scale = hn::BitCast(d, hn::ShiftLeft<23>(hn::BitCast(di, shifted)));
  return hn::IfThenZeroElse(hn::Lt(x, hn::Set(d, -87.0f)), hn::Mul(p, scale));
}

/// Reduces the scores of kQueries queries (`stride` floats apart) for range `index`, which has
/// `num_pages` pages of `rows` clusters; overwrites them. The queries go side by side, as each
/// alone would wait for its own maximum and sum.
template <int kQueries>
HWY_NOINLINE void ReduceRange(int64_t index, int64_t num_pages, int rows, float* scores,
                              int64_t stride, PageFetcher& fetcher, const ClusterMasses* masses) {
  const F32Tag d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  const int64_t size = num_pages * rows;
  hn::Vec<F32Tag> maximum[kQueries];
  hn::Vec<F32Tag> sum[kQueries];
  for (int q = 0; q < kQueries; ++q) {
    maximum[q] = hn::Set(d, kNegativeInfinity);
    hn::StoreU(maximum[q], d, scores + q * stride + size);
  }
  for (int64_t i = 0; i < size; i += lanes) {
    for (int q = 0; q < kQueries; ++q) {
      maximum[q] = hn::Max(maximum[q], hn::LoadU(d, scores + q * stride + i));
    }
  }
  for (int q = 0; q < kQueries; ++q) {
    const float of_range = hn::GetLane(hn::MaxOfLanes(d, maximum[q]));
    masses[q].maxima[index] = of_range;
    maximum[q] = hn::Set(d, FiniteMaximum(of_range));
    sum[q] = hn::Zero(d);
  }
  for (int64_t i = 0; i < size; i += lanes) {
    for (int q = 0; q < kQueries; ++q) {
      float* from = scores + q * stride + i;
      const auto weight = ExpOfScore(d, hn::Sub(hn::LoadU(d, from), maximum[q]));
      hn::StoreU(weight, d, from);
      sum[q] = hn::Add(sum[q], weight);
      fetcher.Fetch();
    }
  }
  for (int q = 0; q < kQueries; ++q) {
    masses[q].sums[index] = hn::GetLane(hn::SumOfLanes(d, sum[q]));
    AddUpPages(num_pages, rows, scores + q * stride);
    std::copy_n(scores + q * stride, num_pages, masses[q].masses + index * kPagesPerRange);
  }
}

#if HWY_TARGET != HWY_SCALAR
/// Whether a range's scores of a query are eight vectors, and its pages one.
HWY_INLINE bool IsEightVectors(int64_t num_pages, int rows) {
  return hn::MaxLanes(F32Tag()) == kPagesPerRange && num_pages == kPagesPerRange && rows == 8;
}

/// ReduceRange for one query and such a range, with the same bits: all stays in registers.
HWY_INLINE void ReduceEightVectors(int64_t index, const float* HWY_RESTRICT scores,
                                   PageFetcher& fetcher, const ClusterMasses& masses) {
  constexpr int kVectors = 8;
  const F32Tag d;
  hn::Vec<F32Tag> x[kVectors];
  HWY_UNROLL(8)
  for (int i = 0; i < kVectors; ++i) x[i] = hn::LoadU(d, scores + i * kPagesPerRange);
  auto maximum = hn::Max(hn::Max(hn::Max(x[0], x[1]), hn::Max(x[2], x[3])),
                         hn::Max(hn::Max(x[4], x[5]), hn::Max(x[6], x[7])));
  const float of_range = hn::GetLane(hn::MaxOfLanes(d, maximum));
  masses.maxima[index] = of_range;
  maximum = hn::Set(d, FiniteMaximum(of_range));
  auto sum = hn::Zero(d);
  HWY_UNROLL(8)
  for (int i = 0; i < kVectors; ++i) {
    x[i] = ExpOfScore(d, hn::Sub(x[i], maximum));
    sum = hn::Add(sum, x[i]);
    if (i < 6) fetcher.Fetch();
  }
  masses.sums[index] = hn::GetLane(hn::SumOfLanes(d, sum));
  const auto add_pairs = [d](hn::Vec<F32Tag> low, hn::Vec<F32Tag> high) HWY_ATTR {
    return hn::Add(hn::ConcatEven(d, high, low), hn::ConcatOdd(d, high, low));
  };
  const auto low = add_pairs(add_pairs(x[0], x[1]), add_pairs(x[2], x[3]));
  const auto high = add_pairs(add_pairs(x[4], x[5]), add_pairs(x[6], x[7]));
  hn::StoreU(add_pairs(low, high), d, masses.masses + index * kPagesPerRange);
}
#endif

/// Reduces the scores of `num_queries` queries for range `index`; overwrites them.
HWY_INLINE void ReduceRanges(const ScoreCall& call, const MassLayout& layout, int num_queries,
                             int64_t index, int64_t num_pages, float* range, PageFetcher& fetcher,
                             float* scores) {
  const int64_t stride = call.RangeFloats();
#if HWY_TARGET != HWY_SCALAR
  if (IsEightVectors(num_pages, call.RowsPerPage())) {
    for (int q = 0; q < num_queries; ++q) {
      ReduceEightVectors(index, range + q * stride, fetcher, layout.Of(scores, q));
    }
    return;
  }
#endif
  ForEachQueryBlock(num_queries, [&](auto count, int q) {
    ClusterMasses masses[kTileQueries];
    for (int i = 0; i < count.value; ++i) masses[i] = layout.Of(scores, q + i);
    ReduceRange<count.value>(index, num_pages, call.RowsPerPage(), range + q * stride, stride,
                             fetcher, masses);
  });
}

template <typename T>
void ScoreClustersOf(const ScoreCall& call, const RowTile& tile, const ScorePart& part,
                     float* memory, float* scores) {
  CmpScorer<T> scorer(call.params.query, call.params.stride, call.params.max_page_distance, tile,
                      part.first_kv_head, part.num_kv_heads);
  const int num_queries = call.NumQueries(tile);
  const int64_t range_floats = call.RangeFloats();
  const MassLayout layout(call, tile);
  float* range = memory;
  const PagedKv& kv = call.params.query.kv;
  PageFetcher fetcher(kv.cmp_slots + part.first_kv_head * kv.cmp_head_stride, kv.cmp_page_stride,
                      part.num_kv_heads * kv.cmp_head_stride, tile.segment->page_table,
                      part.first_page);
  // The first range comes while the queries are laid out, each later one while its predecessor is
  // scored and reduced. Rows that are not integers are fetched by CmpScorer.
  const auto allow_to = [&](int64_t page) {
    if (std::is_same_v<T, int8_t>) fetcher.AllowTo(std::min(page, part.end_page));
  };
  allow_to(part.first_page + kPagesPerRange);
  while (fetcher.Fetch()) {
  }
  scorer.Prepare(part.first_page, part.end_page,
                 range + part.num_kv_heads * num_queries * range_floats);
  for (int64_t first = part.first_page; first < part.end_page; first += kPagesPerRange) {
    const int64_t end = std::min(first + kPagesPerRange, part.end_page);
    allow_to(end + kPagesPerRange);
    for (int head = 0; head < part.num_kv_heads; ++head) {
      scorer.ChooseHead(head);
      scorer.Score(first, end, {.end_page = part.end_page},
                   range + head * num_queries * range_floats, range_floats, &fetcher);
    }
    ReduceRanges(call, layout, part.num_kv_heads * num_queries, first / kPagesPerRange, end - first,
                 range, fetcher, scores);
  }
}

/// ClusterMasses of a tile's queries for some pages: scores[KV head of the part][query].
HWY_INLINE void ScoreClusters(const ScoreCall& call, const RowTile& tile, const ScorePart& part,
                              float* memory, float* scores) {
  if (call.params.query.kv.cmp_dtype == DType::kInt8) {
    ScoreClustersOf<int8_t>(call, tile, part, memory, scores);
  } else {
    ScoreClustersOf<float>(call, tile, part, memory, scores);
  }
}

/// factors[range]: what a range's masses are to be multiplied by to be probabilities.
HWY_INLINE void RangeFactors(const ClusterMasses& masses, int64_t num_ranges, float scale,
                             float* HWY_RESTRICT factors) {
  const F32Tag d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  hn::StoreU(hn::Set(d, kNegativeInfinity), d, masses.maxima + num_ranges);
  hn::StoreU(hn::Zero(d), d, masses.sums + num_ranges);
  const auto origin = hn::Set(d, FiniteMaximum(MaximumOf(num_ranges, masses.maxima)));
  auto sum = hn::Zero(d);
  for (int64_t i = 0; i < num_ranges; i += lanes) {
    const auto factor = ExpOfSoftmax(d, hn::Sub(hn::LoadU(d, masses.maxima + i), origin));
    hn::StoreU(factor, d, factors + i);
    sum = hn::MulAdd(hn::LoadU(d, masses.sums + i), factor, sum);
  }
  const auto inverse = hn::Set(d, scale / hn::GetLane(hn::SumOfLanes(d, sum)));
  for (int64_t i = 0; i < num_ranges; i += lanes) {
    hn::StoreU(hn::Mul(hn::LoadU(d, factors + i), inverse), d, factors + i);
  }
}

/// keys[page] for the candidates of row `i` of a tile; `memory` as ChooserFloats.
HWY_INLINE void ClusterKeys(const ScoreCall& call, const RowTile& tile, int32_t i, float* scores,
                            float* memory, int32_t* HWY_RESTRICT keys) {
  const F32Tag d;
  const hn::RebindToSigned<F32Tag> di;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  const MassLayout layout(call, tile);
  const int64_t factor_floats = ScoreCall::Padded(layout.num_ranges);
  const bool is_mean = call.params.group_reduction == GroupReduction::kMean;
  const auto masses_of = [&](int h) { return layout.Of(scores, int64_t{i} * call.group + h); };
  for (int h = 0; h < call.group; ++h) {
    RangeFactors(masses_of(h), layout.num_ranges,
                 is_mean ? 1.0f / static_cast<float>(call.group) : 1.0f,
                 memory + h * factor_floats);
  }
  for (int64_t page = 0; page < layout.num_pages; page += lanes) {
    const int64_t range = page / kPagesPerRange;
    auto score = hn::Zero(d);
    for (int h = 0; h < call.group; ++h) {
      const auto factor = hn::Set(d, memory[h * factor_floats + range]);
      score = hn::MulAdd(hn::LoadU(d, masses_of(h).masses + page), factor, score);
    }
    // As ScoreKey.
    const auto key = hn::BitCast(di, hn::Add(score, hn::Zero(d)));
    const auto is_number = hn::RebindMask(di, hn::Ge(score, hn::Zero(d)));
    hn::StoreU(hn::IfThenElse(is_number, key, hn::Set(di, -1)), di, keys + page);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace nsa::kernels::cpu
HWY_AFTER_NAMESPACE();

#endif  // NSA_KERNELS_CPU_SCORE_CLUSTERS_INL_H_
