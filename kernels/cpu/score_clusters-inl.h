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

/// Reduces the scores of kQueries queries (`stride` floats apart) for range `index`, which has
/// `num_pages` pages of `rows` clusters; overwrites them. The queries go side by side, as each
/// alone would wait for its own maximum and sum.
template <int kQueries>
HWY_NOINLINE void ReduceRange(int64_t index, int64_t num_pages, int rows, float* scores,
                              int64_t stride, const ClusterMasses* masses) {
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
      const auto weight = ExpOfSoftmax(d, hn::Sub(hn::LoadU(d, from), maximum[q]));
      hn::StoreU(weight, d, from);
      sum[q] = hn::Add(sum[q], weight);
    }
  }
  for (int q = 0; q < kQueries; ++q) {
    masses[q].sums[index] = hn::GetLane(hn::SumOfLanes(d, sum[q]));
    AddUpPages(num_pages, rows, scores + q * stride);
    std::copy_n(scores + q * stride, num_pages, masses[q].masses + index * kPagesPerRange);
  }
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
  scorer.Prepare(part.first_page, part.end_page,
                 range + part.num_kv_heads * num_queries * range_floats);
  for (int64_t first = part.first_page; first < part.end_page; first += kPagesPerRange) {
    const int64_t end = std::min(first + kPagesPerRange, part.end_page);
    for (int head = 0; head < part.num_kv_heads; ++head) {
      scorer.ChooseHead(head);
      scorer.Score(first, end, part.end_page, range + head * num_queries * range_floats,
                   range_floats);
    }
    ForEachQueryBlock(part.num_kv_heads * num_queries, [&](auto count, int q) {
      ClusterMasses masses[kTileQueries];
      for (int i = 0; i < count.value; ++i) masses[i] = layout.Of(scores, q + i);
      ReduceRange<count.value>(first / kPagesPerRange, end - first, call.RowsPerPage(),
                               range + q * range_floats, range_floats, masses);
    });
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
