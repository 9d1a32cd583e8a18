// Scores of compressed rows that are 8-bit integers, compiled once for each Highway target: no
// include guard of the usual kind.
//
// Queries become 8-bit integers too, so a score is an exact integer sum and two roundings: its bits
// depend on no order, and on no instruction set.
#if defined(NSA_KERNELS_CPU_CMP_INT8_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef NSA_KERNELS_CPU_CMP_INT8_INL_H_
#undef NSA_KERNELS_CPU_CMP_INT8_INL_H_
#else
#define NSA_KERNELS_CPU_CMP_INT8_INL_H_
#endif

#include <algorithm>
#include <cstdint>

#include "hwy/highway.h"
#include "kernels/cpu/attention-inl.h"
#include "kernels/cpu/dot_int16-inl.h"

HWY_BEFORE_NAMESPACE();
namespace nsa::kernels::cpu {
namespace HWY_NAMESPACE {

using I32Tag = hn::RebindToSigned<F32Tag>;

/// The largest head_dim that the laying out of queries has room for.
inline constexpr int kMaxInt8HeadDim = 512;

/// Int8 rows of one page and KV head: keys [⌈head_dim/4⌉, rows, 4], scales and biases [rows].
struct Int8Rows {
  const int8_t* keys;
  const float* scales;
  const float* biases;
};

/// What belongs to a query of 8-bit integers: its scale, and where its sums begin, so that
/// DotQuads' offset falls out.
struct Int8Query {
  float scale;
  int32_t origin;
};

HWY_INLINE hn::Vec<I32Tag> LoadKeyQuads(const int8_t* from) {
  const I32Tag di;
  return QuadsOf(di, hn::LoadU(di, reinterpret_cast<const int32_t*>(from)));
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

/// scores[r] = sum·query_scale·scales[r] + biases[r] for the lanes of `sum`.
template <class DI>
HWY_INLINE void StoreInt8Scores(DI di, hn::Vec<DI> sum, float query_scale,
                                hn::Vec<hn::RebindToFloat<DI>> scales,
                                hn::Vec<hn::RebindToFloat<DI>> biases, float* scores) {
  const hn::RebindToFloat<DI> d;
  (void)di;
  const auto scale = hn::Mul(hn::Set(d, query_scale), scales);
  hn::StoreU(hn::MulAdd(hn::ConvertTo(d, sum), scale, biases), d, scores);
}

/// Queries of 8-bit integers, laid out for rows of one number a page: where a page has fewer rows
/// than a vector has lanes, as its keys are, and filled up with zeros to whole vectors.
struct Int8Queries {
  const int32_t* quads;      // [queries, num_quads]
  const Int8Query* queries;  // [queries]
  int num_quads;

  Int8Queries From(int first) const {
    return {quads + int64_t{first} * num_quads, queries + first, num_quads};
  }
};

/// Scores of kPages pages from their sums, for fewer rows than a vector has lanes: the lanes of one
/// row are added up.
template <int kQueries, int kPages>
HWY_INLINE void StorePageScores(const Int8Rows* pages, int rows, const Int8Query* queries,
                                const hn::Vec<I32Tag> (&sum)[kQueries][kPages], float* scores,
                                int64_t scores_stride) {
  const I32Tag di;
  HWY_UNROLL(4)
  for (int p = 0; p < kPages; ++p) {
    HWY_UNROLL(6)
    for (int q = 0; q < kQueries; ++q) {
      FoldTo(di, sum[q][p], rows, [&](auto tag, auto folded) {
        const hn::RebindToFloat<decltype(tag)> d;
        StoreInt8Scores(tag, folded, queries[q].scale, hn::LoadU(d, pages[p].scales),
                        hn::LoadU(d, pages[p].biases), scores + q * scores_stride + p * rows);
      });
    }
  }
}

#if HWY_TARGET != HWY_SCALAR
/// The same where two pages' rows fill a vector.
template <int kQueries, int kPages>
HWY_INLINE void StorePairScores(const Int8Rows* pages, int rows, const Int8Query* queries,
                                const hn::Vec<I32Tag> (&sum)[kQueries][kPages], float* scores,
                                int64_t scores_stride) {
  const I32Tag di;
  const F32Tag d;
  const hn::Half<F32Tag> half;
  HWY_UNROLL(4)
  for (int p = 0; p < kPages; p += 2) {
    const auto scales =
        hn::Combine(d, hn::LoadU(half, pages[p + 1].scales), hn::LoadU(half, pages[p].scales));
    const auto biases =
        hn::Combine(d, hn::LoadU(half, pages[p + 1].biases), hn::LoadU(half, pages[p].biases));
    HWY_UNROLL(6)
    for (int q = 0; q < kQueries; ++q) {
      const auto folded = hn::Add(hn::ConcatLowerLower(di, sum[q][p + 1], sum[q][p]),
                                  hn::ConcatUpperUpper(di, sum[q][p + 1], sum[q][p]));
      StoreInt8Scores(di, folded, queries[q].scale, scales, biases,
                      scores + q * scores_stride + p * rows);
    }
  }
}
#endif

/// Fetches compressed rows of pages to be read later, a few lines at a time between other work: a
/// burst would fill the queues of the loads, and pages are scattered, so the hardware cannot guess.
class PageFetcher {
 public:
  /// `slots`: of the first KV head; `bytes` of a page, from there on, are fetched.
  PageFetcher(const std::byte* slots, int64_t page_stride, int64_t bytes, const int32_t* page_table,
              int64_t first_page)
      : slots_(slots),
        page_stride_(page_stride),
        bytes_(bytes),
        page_table_(page_table),
        page_(first_page) {}

  /// Fetch stops before `end_page`.
  void AllowTo(int64_t end_page) { end_page_ = end_page; }

  /// The next kLines lines; false where there are none.
  HWY_INLINE bool Fetch() {
    if (left_ <= 0) {
      if (page_ >= end_page_) return false;
      next_ = reinterpret_cast<const char*>(slots_ + page_table_[page_++] * page_stride_);
      left_ = bytes_;
    }
    HWY_UNROLL(kLines)
    for (int i = 0; i < kLines; ++i) PrefetchLines(next_ + 64 * i, 1);
    next_ += 64 * kLines;
    left_ -= 64 * kLines;
    return true;
  }

 private:
  static constexpr int kLines = 3;

  const std::byte* slots_;
  int64_t page_stride_;
  int64_t bytes_;
  const int32_t* page_table_;
  int64_t page_;  // the next one to begin
  int64_t end_page_ = 0;
  const char* next_ = nullptr;
  int64_t left_ = 0;  // bytes, of the page begun
};

/// scores[q][page·rows + r] for kPages pages of fewer rows than a vector has lanes. kPairs: two
/// pages' rows fill a vector.
template <int kQueries, int kPages, bool kPairs>
HWY_INLINE void ScoreInt8Pages(const Int8Rows* pages, int rows, const Int8Queries& given,
                               PageFetcher& fetcher, float* scores, int64_t scores_stride) {
  const I32Tag di;
  const int lanes = static_cast<int>(hn::Lanes(di));
  hn::Vec<I32Tag> sum[kQueries][kPages];
  HWY_UNROLL(6)
  for (int q = 0; q < kQueries; ++q) {
    const auto origin = hn::IfThenElseZero(hn::FirstN(di, static_cast<size_t>(rows)),
                                           hn::Set(di, given.queries[q].origin));
    HWY_UNROLL(4)
    for (int p = 0; p < kPages; ++p) sum[q][p] = origin;
  }
  for (int i = 0; i < given.num_quads; i += lanes) {
    hn::Vec<I32Tag> key[kPages];
    HWY_UNROLL(4)
    for (int p = 0; p < kPages; ++p) {
      key[p] = LoadKeyQuads(pages[p].keys + 4 * i);
    }
    fetcher.Fetch();
    HWY_UNROLL(6)
    for (int q = 0; q < kQueries; ++q) {
      const auto x = hn::LoadU(di, given.quads + int64_t{q} * given.num_quads + i);
      HWY_UNROLL(4)
      for (int p = 0; p < kPages; ++p) sum[q][p] = DotQuads(key[p], x, sum[q][p]);
    }
  }
#if HWY_TARGET != HWY_SCALAR
  if constexpr (kPairs) {
    StorePairScores<kQueries, kPages>(pages, rows, given.queries, sum, scores, scores_stride);
    return;
  }
#endif
  StorePageScores<kQueries, kPages>(pages, rows, given.queries, sum, scores, scores_stride);
}

/// ScoreInt8Pages for as many pages as come, in blocks of kPages; returns the first that is left.
template <int kQueries, int kPages, bool kPairs>
HWY_INLINE int ScoreInt8Blocks(const Int8Rows* pages, int first, int num_pages, int rows,
                               const Int8Queries& queries, PageFetcher& fetcher, float* scores,
                               int64_t scores_stride) {
  int page = first;
  for (; page + kPages <= num_pages; page += kPages) {
    ScoreInt8Pages<kQueries, kPages, kPairs>(pages + page, rows, queries, fetcher,
                                             scores + page * rows, scores_stride);
  }
  return page;
}

/// ScoreInt8Pages for any number of pages. With few queries four pages share each query's vectors.
template <int kQueries>
HWY_NOINLINE void ScoreInt8Patterns(const Int8Rows* pages, int num_pages, int rows,
                                    const Int8Queries& queries, PageFetcher& fetcher, float* scores,
                                    int64_t scores_stride) {
  constexpr int kPages = kQueries <= 4 ? 4 : 2;
  int page = 0;
#if HWY_TARGET != HWY_SCALAR
  if (2 * rows == static_cast<int>(hn::Lanes(I32Tag()))) {
    page = ScoreInt8Blocks<kQueries, kPages, true>(pages, page, num_pages, rows, queries, fetcher,
                                                   scores, scores_stride);
  }
#endif
  page = ScoreInt8Blocks<kQueries, kPages, false>(pages, page, num_pages, rows, queries, fetcher,
                                                  scores, scores_stride);
  ScoreInt8Blocks<kQueries, 1, false>(pages, page, num_pages, rows, queries, fetcher, scores,
                                      scores_stride);
}

/// The same for a page of whole vectors of rows.
template <int kQueries>
HWY_NOINLINE void ScoreInt8Vectors(const Int8Rows& page, int rows, const Int8Queries& given,
                                   float* scores, int64_t scores_stride) {
  const I32Tag di;
  const F32Tag d;
  for (int row = 0; row < rows; row += static_cast<int>(hn::Lanes(di))) {
    hn::Vec<I32Tag> sum[kQueries];
    for (int q = 0; q < kQueries; ++q) sum[q] = hn::Set(di, given.queries[q].origin);
    for (int i = 0; i < given.num_quads; ++i) {
      const auto key = LoadKeyQuads(page.keys + 4 * (int64_t{i} * rows + row));
      for (int q = 0; q < kQueries; ++q) {
        const auto x = hn::Set(di, given.quads[int64_t{q} * given.num_quads + i]);
        sum[q] = DotQuads(key, x, sum[q]);
      }
    }
    for (int q = 0; q < kQueries; ++q) {
      StoreInt8Scores(di, sum[q], given.queries[q].scale, hn::LoadU(d, page.scales + row),
                      hn::LoadU(d, page.biases + row), scores + q * scores_stride + row);
    }
  }
}

/// quads = x in 8-bit integers, 0 behind the last one.
HWY_INLINE Int8Query QuantiseQuery(const float* x, int head_dim, int32_t* quads) {
  auto* q = reinterpret_cast<int8_t*>(quads);
  for (int dim = head_dim; dim % 4 != 0; ++dim) q[dim] = 0;
  const float scale = QuantiseRow(x, head_dim, q);
  int32_t sum = 0;
  for (int dim = 0; dim < head_dim; ++dim) sum += q[dim];
  return {scale, -kQuadOffset * sum};
}

/// out[dim][r] = the keys turned back by one row of a rotary table, without their scale, for D's
/// lanes of rows from `row` on.
template <class D>
HWY_INLINE void TurnInt8Rows(D d, const int8_t* keys, int head_dim, int rows, int row,
                             const float* HWY_RESTRICT cosines, const float* HWY_RESTRICT sines,
                             int half, float* HWY_RESTRICT out) {
  const hn::RebindToSigned<D> di;
  const auto load = [&](int dim) HWY_ATTR {
    const auto quad =
        hn::LoadU(di, reinterpret_cast<const int32_t*>(keys) + int64_t{dim / 4} * rows + row);
    return hn::ConvertTo(d, hn::ShiftRight<24>(hn::ShiftLeftSame(quad, 24 - 8 * (dim % 4))));
  };
  for (int i = 0; i < half; ++i) {
    const auto c = hn::Set(d, cosines[i]);
    const auto s = hn::Set(d, sines[i]);
    const auto a = load(i);
    const auto b = load(i + half);
    hn::StoreU(hn::MulAdd(b, s, hn::Mul(a, c)), d, out + int64_t{i} * rows + row);
    hn::StoreU(hn::NegMulAdd(a, s, hn::Mul(b, c)), d, out + int64_t{i + half} * rows + row);
  }
  for (int dim = 2 * half; dim < head_dim; ++dim) {
    hn::StoreU(load(dim), d, out + int64_t{dim} * rows + row);
  }
}

/// The same for all rows of a page.
HWY_INLINE void TurnInt8Page(const int8_t* keys, int head_dim, int rows, const float* cosines,
                             const float* sines, int half, float* out) {
  const hn::CappedTag<float, 8> d;
  const int lanes = static_cast<int>(hn::Lanes(d));
  int row = 0;
  for (; row + lanes <= rows; row += lanes) {
    TurnInt8Rows(d, keys, head_dim, rows, row, cosines, sines, half, out);
  }
  for (; row < rows; ++row) {
    TurnInt8Rows(F32Tail(), keys, head_dim, rows, row, cosines, sines, half, out);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace nsa::kernels::cpu
HWY_AFTER_NAMESPACE();

#endif  // NSA_KERNELS_CPU_CMP_INT8_INL_H_
