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

/// Fetches the lines that belong to elements [i, i + step) of a walk over `size` elements, so that
/// each group of kPages pages is fetched in the order of addresses: the hardware then sees a
/// stream.
template <int kPages, typename K>
HWY_INLINE void FetchStep(std::span<const K* const> fetched, int size, int i, int step) {
  constexpr int kLineElements = 64 / sizeof(K);
  static_assert(kPages <= 2);
  const int page = i * kPages >= size ? 1 : 0;
  const int first = i * kPages - page * size;
  if (first % kLineElements != 0) return;
  for (size_t group = 0; group < fetched.size(); group += kPages) {
    PrefetchLines(fetched[group + static_cast<size_t>(page)] + first, step * kPages);
  }
}

/// out[q][page·rows + r] = Σ_dim query[q][dim]·k_page[dim][r] for kPages pages.
/// `patterns` are the queries as Spreader lays them out. Lanes run over rows and dimensions; the
/// lanes of one row are added up at the end.
/// `fetched`: groups of as many pages that are to be read later and are fetched meanwhile.
template <int kQueries, int kPages, typename K>
HWY_NOINLINE void ScorePatterns(const K* const* pages, std::span<const K* const> fetched, int rows,
                                int head_dim, const float* HWY_RESTRICT patterns, float* scores,
                                int64_t scores_stride) {
  const F32Tag d;
  const int size = head_dim * rows;
  hn::Vec<F32Tag> sum[kQueries][kPages];
  for (int q = 0; q < kQueries; ++q) {
    for (int p = 0; p < kPages; ++p) sum[q][p] = hn::Zero(d);
  }
  const int lanes = static_cast<int>(hn::Lanes(d));
  for (int i = 0; i < size; i += lanes) {
    hn::Vec<F32Tag> key[kPages];
    for (int p = 0; p < kPages; ++p) key[p] = LoadCache(d, pages[p] + i);
    FetchStep<kPages>(fetched, size, i, lanes);
    for (int q = 0; q < kQueries; ++q) {
      const auto x = hn::LoadU(d, patterns + int64_t{q} * size + i);
      for (int p = 0; p < kPages; ++p) sum[q][p] = hn::MulAdd(x, key[p], sum[q][p]);
    }
  }
  for (int q = 0; q < kQueries; ++q) {
    for (int p = 0; p < kPages; ++p) {
      FoldTo(d, sum[q][p], rows, [&](auto tag, auto folded) {
        hn::StoreU(folded, tag, scores + q * scores_stride + p * rows);
      });
    }
  }
}

#if HWY_MAX_BYTES >= 64
/// Fetches `num_bytes` from `line` on, in whole lines; null: nothing.
HWY_INLINE void FetchBytes(const char* line, int num_bytes) {
  for (int i = 0; line != nullptr && i < num_bytes; i += 64) __builtin_prefetch(line + i, 0, 2);
}

/// Four vectors of 16, each the sums of a page's four rows by four, added up row by row as FoldTo
/// does: [4 pages, 4 rows].
HWY_INLINE hn::Vec<F32Tag> FoldFourPages(const hn::Vec<F32Tag> (&sum)[4]) {
  const F32Tag d;
  const auto even =
      hn::Add(hn::ConcatLowerLower(d, sum[2], sum[0]), hn::ConcatUpperUpper(d, sum[2], sum[0]));
  const auto odd =
      hn::Add(hn::ConcatLowerLower(d, sum[3], sum[1]), hn::ConcatUpperUpper(d, sum[3], sum[1]));
  return hn::Add(hn::OddEvenBlocks(hn::SwapAdjacentBlocks(odd), even),
                 hn::OddEvenBlocks(odd, hn::SwapAdjacentBlocks(even)));
}

/// ScorePatterns where vectors have 16 lanes, for four pages of four rows and a multiple of 16
/// dimensions: queries are loaded half as often, and the folded sums are one vector a query.
/// `fetched`: none, or one or two groups of four pages.
template <int kQueries, typename K>
HWY_NOINLINE void ScoreFourPages(const K* const* pages, std::span<const K* const> fetched, int size,
                                 const float* HWY_RESTRICT patterns, float* scores,
                                 int64_t scores_stride) {
  constexpr int kPages = 4;
  constexpr int kLanes = 16;
  constexpr int kStepBytes = kPages * kLanes * static_cast<int>(sizeof(K));
  const F32Tag d;
  hn::Vec<F32Tag> sum[kQueries][kPages];
  for (int q = 0; q < kQueries; ++q) {
    for (int p = 0; p < kPages; ++p) sum[q][p] = hn::Zero(d);
  }
  int i = 0;
  for (size_t part = 0; part < kPages; ++part) {  // one fetched page of each group after the other
    const char* ahead[2] = {};
    for (size_t group = 0; group * kPages < fetched.size(); ++group) {
      ahead[group] = reinterpret_cast<const char*>(fetched[group * kPages + part]);
    }
    const int end = size / kPages * static_cast<int>(part + 1);
    for (int from = 0; i < end; i += kLanes, from += kStepBytes) {
      FetchBytes(ahead[0] == nullptr ? nullptr : ahead[0] + from, kStepBytes);
      FetchBytes(ahead[1] == nullptr ? nullptr : ahead[1] + from, kStepBytes);
      hn::Vec<F32Tag> key[kPages];
      for (int p = 0; p < kPages; ++p) key[p] = LoadCache(d, pages[p] + i);
      for (int q = 0; q < kQueries; ++q) {
        const auto x = hn::LoadU(d, patterns + int64_t{q} * size + i);
        for (int p = 0; p < kPages; ++p) sum[q][p] = hn::MulAdd(x, key[p], sum[q][p]);
      }
    }
  }
  for (int q = 0; q < kQueries; ++q) {
    hn::StoreU(FoldFourPages(sum[q]), d, scores + q * scores_stride);
  }
}
#endif

}  // namespace HWY_NAMESPACE
}  // namespace nsa::kernels::cpu
HWY_AFTER_NAMESPACE();

#endif  // NSA_KERNELS_CPU_SCORE_PATTERNS_INL_H_
