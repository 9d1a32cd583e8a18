// Keys of pages that have fewer compressed rows than a vector has lanes against queries laid out
// like them, compiled once for each Highway target: no include guard of the usual kind.
#if defined(NSA_KERNELS_CPU_SCORE_PATTERNS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef NSA_KERNELS_CPU_SCORE_PATTERNS_INL_H_
#undef NSA_KERNELS_CPU_SCORE_PATTERNS_INL_H_
#else
#define NSA_KERNELS_CPU_SCORE_PATTERNS_INL_H_
#endif

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

#include "hwy/highway.h"
#include "kernels/cpu/attention-inl.h"
#include "kernels/cpu/cmp_int8-inl.h"

HWY_BEFORE_NAMESPACE();
namespace nsa::kernels::cpu {
namespace HWY_NAMESPACE {

/// Lays vectors of 32-bit elements out like a page of `rows` compressed keys: out[i·rows + r] =
/// x[i] for r < rows.
class Spreader {
 public:
  explicit Spreader(int rows) : rows_(rows) {
    const int lanes = static_cast<int>(hn::Lanes(F32Tag()));
    for (int i = 0; rows <= lanes && i < rows * lanes; ++i) index_[i] = i / rows;
  }

  template <typename T>
  void operator()(const T* HWY_RESTRICT x, int count, T* HWY_RESTRICT out) const {
    const hn::CappedTag<T, 16> d;
    const hn::RebindToSigned<F32Tag> di;
    const int lanes = static_cast<int>(hn::Lanes(d));
    int i = 0;
    for (; rows_ <= lanes && i + lanes <= count; i += lanes) {
      const auto values = hn::LoadU(d, x + i);
      for (int part = 0; part < rows_; ++part) {
        const auto table = hn::IndicesFromVec(d, hn::LoadU(di, index_ + part * lanes));
        hn::StoreU(hn::TableLookupLanes(values, table), d, out + i * rows_ + part * lanes);
      }
    }
    for (; i < count; ++i) std::fill_n(out + int64_t{i} * rows_, rows_, x[i]);
  }

 private:
  int rows_;
  int32_t index_[16 * 16];  // [rows, lanes]: the element that goes into each lane
};

/// Adds up the lanes of each row, and stores [kPages, rows].
template <int kPages>
HWY_INLINE void StoreFolded(const hn::Vec<F32Tag> (&sum)[kPages], int rows, float* scores) {
  for (int p = 0; p < kPages; ++p) {
    FoldTo(F32Tag(), sum[p], rows,
           [&](auto tag, auto folded) { hn::StoreU(folded, tag, scores + p * rows); });
  }
}

#if HWY_MAX_BYTES >= 64
/// The same of four pages of four rows where vectors have 16 lanes: one vector.
HWY_INLINE void StoreFolded(const hn::Vec<F32Tag> (&sum)[4], int /*rows*/, float* scores) {
  const F32Tag d;
  const auto even =
      hn::Add(hn::ConcatLowerLower(d, sum[2], sum[0]), hn::ConcatUpperUpper(d, sum[2], sum[0]));
  const auto odd =
      hn::Add(hn::ConcatLowerLower(d, sum[3], sum[1]), hn::ConcatUpperUpper(d, sum[3], sum[1]));
  hn::StoreU(hn::Add(hn::OddEvenBlocks(hn::SwapAdjacentBlocks(odd), even),
                     hn::OddEvenBlocks(odd, hn::SwapAdjacentBlocks(even))),
             d, scores);
}
#endif

/// out[q][page·rows + r] = Σ_dim query[q][dim]·k_page[dim][r] for kPages pages.
/// `patterns` are the queries as Spreader lays them out. Lanes run over rows and dimensions; the
/// lanes of one row are added up at the end.
/// `fetched`: up to kPages pages that are to be read later and are fetched meanwhile, one after the
/// other in the order of addresses: the hardware then sees a stream.
template <int kQueries, int kPages, typename K>
HWY_NOINLINE void ScorePatterns(const K* const* pages, std::span<const K* const> fetched, int rows,
                                int head_dim, const float* HWY_RESTRICT patterns, float* scores,
                                int64_t scores_stride) {
  constexpr int kLineElements = 64 / sizeof(K);
  const F32Tag d;
  const int size = head_dim * rows;
  hn::Vec<F32Tag> sum[kQueries][kPages];
  for (int q = 0; q < kQueries; ++q) {
    for (int p = 0; p < kPages; ++p) sum[q][p] = hn::Zero(d);
  }
  const int lanes = static_cast<int>(hn::Lanes(d));
  int i = 0;
  for (int part = 0; part < kPages; ++part) {  // one fetched page after the other
    const bool fetches = static_cast<size_t>(part) < fetched.size();
    const int end = part + 1 == kPages ? size : size / kPages * (part + 1);
    for (int from = 0; i < end; i += lanes, from += lanes * kPages) {
      if (fetches && from % kLineElements == 0) PrefetchLines(fetched[part] + from, lanes * kPages);
      hn::Vec<F32Tag> key[kPages];
      for (int p = 0; p < kPages; ++p) key[p] = LoadCache(d, pages[p] + i);
      for (int q = 0; q < kQueries; ++q) {
        const auto x = hn::LoadU(d, patterns + int64_t{q} * size + i);
        for (int p = 0; p < kPages; ++p) sum[q][p] = hn::MulAdd(x, key[p], sum[q][p]);
      }
    }
  }
  for (int q = 0; q < kQueries; ++q) StoreFolded(sum[q], rows, scores + q * scores_stride);
}

#if HWY_TARGET != HWY_SCALAR
/// ScorePatterns of bfloat16 keys two or four of which share a page. A pair of vectors holds even
/// and odd keys of as many dimensions, so one vector of a query meets both: `patterns` are laid out
/// for half as many rows.
template <int kQueries, int kPages, typename K>
HWY_NOINLINE void ScorePairs(const K* const* pages, std::span<const K* const> fetched, int rows,
                             int head_dim, const float* HWY_RESTRICT patterns, float* scores,
                             int64_t scores_stride) {
  static_assert(kAlternates<K>);
  constexpr int kAtOnce = kPages < 2 ? kPages : 2;
  const F32Tag d;
  const int size = head_dim * rows;
  const int step = 2 * static_cast<int>(hn::Lanes(d));
  hn::Vec<F32Tag> sum[kQueries][kPages];
  for (int first = 0; first < kPages; first += kAtOnce) {
    hn::Vec<F32Tag> even[kQueries][kAtOnce], odd[kQueries][kAtOnce];
    for (int q = 0; q < kQueries; ++q) {
      for (int p = 0; p < kAtOnce; ++p) even[q][p] = odd[q][p] = hn::Zero(d);
    }
    auto fetch = static_cast<size_t>(first);
    for (int i = 0, from = 0; i < size; i += step, from += kAtOnce * step) {
      if (from == size) from = 0, ++fetch;
      if (fetch < fetched.size()) PrefetchLines(fetched[fetch] + from, kAtOnce * step);
      hn::Vec<F32Tag> key[kAtOnce][2];
      for (int p = 0; p < kAtOnce; ++p) LoadPair(d, pages[first + p] + i, key[p][0], key[p][1]);
      for (int q = 0; q < kQueries; ++q) {
        const auto x = hn::LoadU(d, patterns + (int64_t{q} * size + i) / 2);
        for (int p = 0; p < kAtOnce; ++p) {
          even[q][p] = hn::MulAdd(x, key[p][0], even[q][p]);
          odd[q][p] = hn::MulAdd(x, key[p][1], odd[q][p]);
        }
      }
    }
    for (int q = 0; q < kQueries; ++q) {
      for (int p = 0; p < kAtOnce; ++p) {  // back to keys in order, in each block of four lanes
        sum[q][first + p] = hn::Add(hn::InterleaveLower(d, even[q][p], odd[q][p]),
                                    hn::InterleaveUpper(d, even[q][p], odd[q][p]));
      }
    }
  }
  for (int q = 0; q < kQueries; ++q) StoreFolded(sum[q], rows, scores + q * scores_stride);
}
#endif

}  // namespace HWY_NAMESPACE
}  // namespace nsa::kernels::cpu
HWY_AFTER_NAMESPACE();

#endif  // NSA_KERNELS_CPU_SCORE_PATTERNS_INL_H_
