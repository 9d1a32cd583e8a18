// Scores of compressed rows, compiled once for each Highway target: no include guard of the usual
// kind.
#if defined(NSA_KERNELS_CPU_CMP_SCORES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef NSA_KERNELS_CPU_CMP_SCORES_INL_H_
#undef NSA_KERNELS_CPU_CMP_SCORES_INL_H_
#else
#define NSA_KERNELS_CPU_CMP_SCORES_INL_H_
#endif

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>

#include "hwy/highway.h"
#include "kernels/check.h"
#include "kernels/cpu/attention-inl.h"
#include "kernels/cpu/cmp_int8-inl.h"
#include "kernels/cpu/paged_attention.h"
#include "kernels/cpu/score_patterns-inl.h"
#include "kernels/ops/attention.h"

HWY_BEFORE_NAMESPACE();
namespace nsa::kernels::cpu {
namespace HWY_NAMESPACE {

/// Pages between those that are read and those that are fetched meanwhile: some kilobytes.
inline constexpr int64_t kCmpPagesAhead = 8;

/// What is fetched while pages' keys are scored: keys of the pages kCmpPagesAhead on and before
/// `end_page`, and for the last of these, which have none, values of the first.
struct FetchedRows {
  int64_t end_page = 0;
  bool values = false;
};

/// Scores scale·q·K̂ (+ bias, where rows have one) of a tile's rows and the query heads of some KV
/// heads, one KV head at a time, page by page.
///
/// The tile's rows stand in one page, so one rotation of a page of compressed keys serves them all:
/// that is cheaper than rotating every query for every page. Pages from `max_page_distance` on, or
/// all where keys are absolute, share one rotation, which is put into the queries once. T: element
/// type of compressed rows.
template <typename T>
class CmpScorer {
 public:
  CmpScorer(const AttentionQuery& query, int stride, int64_t max_page_distance, const RowTile& tile,
            int first_kv_head, int num_kv_heads = 1)
      : query_(query),
        kv_(query.kv),
        tile_(tile),
        first_kv_head_(first_kv_head),
        num_kv_heads_(num_kv_heads),
        group_(query.num_q_heads / query.kv.num_kv_heads),
        rows_(kPageSize / stride),
        size_(query.kv.head_dim_k * rows_),
        spread_(rows_),
        spread_pairs_(std::max(1, rows_ / 2)),
        query_page_(tile.Row(0).position / kPageSize),
        max_page_distance_(max_page_distance),
        uses_patterns_(rows_ < Lanes() && size_ % Lanes() == 0),
        uses_pairs_(kAlternates<T> && (rows_ == 2 || rows_ == 4) && size_ % (2 * Lanes()) == 0),
        num_quads_(rows_ < Lanes() ? (QuadsOfKey() * rows_ + Lanes() - 1) / Lanes() * Lanes()
                                   : QuadsOfKey()) {
    NSA_CHECK(!kIsInt8 || kv_.head_dim_k <= kMaxInt8HeadDim);
    NSA_CHECK(!kIsInt8 || kv_.cmp_bias_offset >= 0);
  }

  int num_queries() const { return tile_.num_rows * group_; }

  /// Rotates and lays out the queries of all KV heads in `memory` (CmpScorerFloats), as Score reads
  /// them for pages [first_page, end_page). The first KV head is chosen.
  void Prepare(int64_t first_page, int64_t end_page, float* memory) {
    CountFarPages();
    const int64_t num_queries_of_all = int64_t{num_kv_heads_} * num_queries();
    near_of_all_ = memory;
    far_of_all_ = near_of_all_ + num_queries_of_all * NearFloats();
    int8_of_all_ = reinterpret_cast<Int8Query*>(far_of_all_ + num_queries_of_all * FarFloats());
    page_ = reinterpret_cast<float*>(int8_of_all_ + num_queries_of_all);
    tables_ = page_ + 4 * size_;
    row_ = tables_ + 2 * size_;
    const bool has_far = first_page < num_far_pages_;
    const bool has_near = end_page > num_far_pages_;
    for (int index = num_kv_heads_ - 1; index >= 0; --index) {
      ChooseHead(index);
      PrepareHead(has_far, has_near);
    }
  }

  /// The KV head that Score is about, counted from the first.
  void ChooseHead(int index) {
    kv_head_ = first_kv_head_ + index;
    const int64_t first = int64_t{index} * num_queries();
    near_ = near_of_all_ + first * NearFloats();
    far_ = far_of_all_ + first * FarFloats();
    int8_ = int8_of_all_ + first;
  }

  /// The chosen head's compressed rows of a page.
  const std::byte* Slot(int64_t page) const {
    return kv_.cmp_slots + tile_.segment->page_table[page] * kv_.cmp_page_stride +
           kv_head_ * kv_.cmp_head_stride;
  }

  const T* Keys(int64_t page) const { return reinterpret_cast<const T*>(Slot(page)); }
  const T* Values(int64_t page) const {
    return reinterpret_cast<const T*>(Slot(page) + kv_.cmp_v_offset);
  }

  /// Fetches the keys of the first pages before `end_page` that Score does not find fetched.
  void FetchFirst(int64_t first_page, int64_t end_page) const {
    const int64_t end = std::min(end_page, first_page + kCmpPagesAhead);
    for (int64_t page = first_page; page < end; ++page) {
      PrefetchLines(Keys(page), size_);
    }
  }

  /// scores[q·scores_stride + (page − first_page)·rows + slot] for pages [first_page, end_page).
  /// Fetches what is read later: int8 rows as `fetcher` has it, which they cannot do without.
  void Score(int64_t first_page, int64_t end_page, const FetchedRows& fetch, float* scores,
             int64_t scores_stride, PageFetcher* fetcher = nullptr) {
    const int64_t far_end = std::clamp(num_far_pages_, first_page, end_page);
    if constexpr (kIsInt8) {
      ScoreFarInt8(first_page, far_end, *fetcher, scores, scores_stride);
    } else {
      ForRunsOfPages(first_page, far_end, [&](auto num_pages, int64_t page) {
        const T* pages[num_pages.value];
        const T* fetched[num_pages.value];
        size_t num_fetched = 0;
        for (int p = 0; p < num_pages.value; ++p) {
          pages[p] = Keys(page + p);
          const int64_t ahead = page + p + kCmpPagesAhead;
          if (ahead < fetch.end_page) {
            fetched[num_fetched++] = Keys(ahead);
          } else if (fetch.values && first_page + ahead - fetch.end_page < end_page) {
            fetched[num_fetched++] = Values(first_page + ahead - fetch.end_page);
          }
        }
        ScorePages<num_pages.value>(page, pages, std::span<const T* const>(fetched, num_fetched),
                                    far_, scores + (page - first_page) * rows_, scores_stride);
      });
    }
    ForRunsOfPages(far_end, end_page, [&](auto num_pages, int64_t page) {
      ScoreNear<num_pages.value>(page, scores + (page - first_page) * rows_, scores_stride);
    });
  }

 private:
  static constexpr bool kIsInt8 = std::is_same_v<T, int8_t>;
  static int Lanes() { return static_cast<int>(hn::Lanes(F32Tag())); }

  int QuadsOfKey() const { return (kv_.head_dim_k + 3) / 4; }
  int64_t NearFloats() const { return uses_patterns_ ? size_ : kv_.head_dim_k; }
  int64_t FarFloats() const {
    if (kIsInt8) return num_quads_;
    return uses_pairs_ ? size_ / 2 : NearFloats();
  }

  void CountFarPages() {
    const RopeView& rope = query_.rope;
    const int half = rope.rotary_dim / 2;
    NSA_CHECK(!kv_.cmp_absolute || max_page_distance_ < 0);
    if (half == 0 || kv_.cmp_absolute) {  // all pages are alike
      num_far_pages_ = query_page_ + 1;
      far_distance_ = query_page_;
    } else if (max_page_distance_ >= 0) {
      num_far_pages_ = std::max<int64_t>(0, query_page_ - max_page_distance_ + 1);
      far_distance_ = max_page_distance_;
    }
    const int64_t longest = num_far_pages_ > 0 ? far_distance_ : query_page_;
    NSA_CHECK(half == 0 || longest < rope.num_coarse);
  }

  void PrepareHead(bool has_far, bool has_near) {
    const RopeView& rope = query_.rope;
    const int half = rope.rotary_dim / 2;
    for (int q = 0; q < num_queries(); ++q) {
      const QueryRow query_row = tile_.Row(q / group_);
      const int64_t fine = query_row.position % kPageSize * half;
      const int64_t head = int64_t{kv_head_} * group_ + q % group_;
      RotateRow(rope.fine_cos + fine, rope.fine_sin + fine, half, kv_.head_dim_k,
                query_.q + query_row.row * query_.q_stride + head * kv_.head_dim_k, row_);
      for (int dim = 0; dim < kv_.head_dim_k; ++dim) row_[dim] *= query_.scale;
      if (has_near) LayOutNear(row_, near_ + q * NearFloats());
      if (!has_far) continue;
      const int64_t coarse = far_distance_ * half;
      float* far_row = row_ + kv_.head_dim_k;
      RotateRow(rope.coarse_cos + coarse, rope.coarse_sin + coarse, half, kv_.head_dim_k, row_,
                far_row);
      if constexpr (kIsInt8) {
        int8_[q] = LayOutQuads(far_row, reinterpret_cast<int32_t*>(far_) + q * num_quads_);
      } else {
        LayOutFar(far_row, far_ + q * FarFloats());
      }
    }
  }

  void LayOutNear(const float* x, float* out) const {
    if (uses_patterns_) {
      spread_(x, kv_.head_dim_k, out);
    } else {
      std::copy_n(x, kv_.head_dim_k, out);
    }
  }

  void LayOutFar(const float* x, float* out) const {
    if (!uses_pairs_) return LayOutNear(x, out);
    spread_pairs_(x, kv_.head_dim_k, out);
  }

  Int8Query LayOutQuads(const float* x, int32_t* out) const {
    int32_t quads[kMaxInt8HeadDim / 4];
    const Int8Query query = QuantiseQuery(x, kv_.head_dim_k, quads);
    if (rows_ >= Lanes()) {
      std::copy_n(quads, QuadsOfKey(), out);
      return query;
    }
    spread_(quads, QuadsOfKey(), out);
    std::fill(out + QuadsOfKey() * rows_, out + num_quads_, 0);
    return query;
  }

  Int8Rows RowsOf(int64_t page) const {
    const std::byte* slot = Slot(page);
    return {reinterpret_cast<const int8_t*>(slot),
            reinterpret_cast<const float*>(slot + kv_.cmp_scale_offset),
            reinterpret_cast<const float*>(slot + kv_.cmp_bias_offset)};
  }

  /// Calls body(std::integral_constant<int, count>, page) for pages four at a time where their rows
  /// fill a vector of 16, so that queries are loaded half as often; then two at a time, then the
  /// last.
  template <class Body>
  void ForRunsOfPages(int64_t first_page, int64_t end_page, const Body& body) {
    int64_t page = first_page;
    if constexpr (HWY_MAX_BYTES >= 64) {
      if (uses_patterns_ && Lanes() == 16 && rows_ == 4) {
        for (; page + 4 <= end_page; page += 4) body(std::integral_constant<int, 4>(), page);
      }
    }
    for (; page + 2 <= end_page; page += 2) body(std::integral_constant<int, 2>(), page);
    if (page < end_page) body(std::integral_constant<int, 1>(), page);
  }

  void ScoreFarInt8(int64_t first_page, int64_t end_page, PageFetcher& fetcher, float* scores,
                    int64_t stride) {
    constexpr int64_t kPagesAtOnce = 16;
    Int8Rows rows[kPagesAtOnce];
    for (int64_t page = first_page; page < end_page; page += kPagesAtOnce) {
      const int64_t count = std::min(kPagesAtOnce, end_page - page);
      for (int64_t p = 0; p < count; ++p) rows[p] = RowsOf(page + p);
      ScoreInt8(rows, static_cast<int>(count), fetcher, scores + (page - first_page) * rows_,
                stride);
    }
  }

  void ScoreInt8(const Int8Rows* pages, int num_pages, PageFetcher& fetcher, float* scores,
                 int64_t stride) {
    const Int8Queries all = {reinterpret_cast<const int32_t*>(far_), int8_, num_quads_};
    ForEachQueryBlock(num_queries(), [&](auto count, int first) {
      const Int8Queries queries = all.From(first);
      float* out = scores + first * stride;
      if (rows_ < Lanes()) {
        ScoreInt8Patterns<count.value>(pages, num_pages, rows_, queries, fetcher, out, stride);
        return;
      }
      for (int p = 0; p < num_pages; ++p) {
        ScoreInt8Vectors<count.value>(pages[p], rows_, queries, out + p * rows_, stride);
      }
    });
  }

  template <int kPages>
  void ScoreNear(int64_t first_page, float* scores, int64_t stride) {
    const float* pages[kPages];
    for (int p = 0; p < kPages; ++p) {
      float* rotated = page_ + p * size_;
      if constexpr (kIsInt8) {
        const int half = query_.rope.rotary_dim / 2;
        const int64_t coarse = (query_page_ - first_page - p) * half;
        TurnInt8Page(Keys(first_page + p), kv_.head_dim_k, rows_, query_.rope.coarse_cos + coarse,
                     query_.rope.coarse_sin + coarse, half, rotated);
      } else {
        RotatePage(first_page + p, Keys(first_page + p), rotated);
      }
      pages[p] = rotated;
    }
    ScorePages<kPages>(first_page, pages, std::span<const float* const>(), near_, scores, stride);
  }

  /// out = keys of a page turned back by its distance from the queries.
  template <typename K>
  void RotatePage(int64_t page, const K* keys, float* out) {
    const RopeView& rope = query_.rope;
    const int half = rope.rotary_dim / 2;
    const int64_t coarse = (query_page_ - page) * half;
    spread_(rope.coarse_cos + coarse, half, tables_);
    spread_(rope.coarse_sin + coarse, half, tables_ + size_);
    const int count = half * rows_;
    const F32Tag d;
    int i = 0;
    for (; i + Lanes() <= count; i += Lanes()) RotatePair(d, keys, i, count, out);
    for (; i < count; ++i) RotatePair(F32Tail(), keys, i, count, out);
    for (i = 2 * count; i + Lanes() <= size_; i += Lanes()) {
      hn::StoreU(LoadCache(d, keys + i), d, out + i);
    }
    for (; i < size_; ++i) hn::StoreU(LoadCache(F32Tail(), keys + i), F32Tail(), out + i);
  }

  template <class D, typename K>
  HWY_INLINE void RotatePair(D d, const K* keys, int i, int count, float* out) const {
    const auto c = hn::LoadU(d, tables_ + i);
    const auto s = hn::LoadU(d, tables_ + size_ + i);
    const auto a = LoadCache(d, keys + i);
    const auto b = LoadCache(d, keys + i + count);
    hn::StoreU(hn::MulAdd(b, s, hn::Mul(a, c)), d, out + i);
    hn::StoreU(hn::NegMulAdd(a, s, hn::Mul(b, c)), d, out + i + count);
  }

  template <int kPages, typename K>
  void ScorePages(int64_t first_page, const K* const* pages, std::span<const K* const> fetched,
                  const float* queries, float* scores, int64_t stride) {
    ForEachQueryBlock(num_queries(), [&](auto count, int first) {
      float* out = scores + first * stride;
#if HWY_TARGET != HWY_SCALAR
      if constexpr (kAlternates<K>) {
        if (uses_pairs_) {
          ScorePairs<count.value, kPages>(pages, fetched, rows_, kv_.head_dim_k,
                                          queries + first * FarFloats(), out, stride);
          fetched = {};
          return;
        }
      }
#endif
      const float* block = queries + first * NearFloats();
      if (uses_patterns_) {
        ScorePatterns<count.value, kPages>(pages, fetched, rows_, kv_.head_dim_k, block, out,
                                           stride);
        fetched = {};
        return;
      }
      for (int p = 0; p < kPages; ++p) {
        if (rows_ >= Lanes()) {
          ScoreRows<count.value>(pages[p], rows_, 0, rows_, kv_.head_dim_k, block, out + p * rows_,
                                 stride);
          continue;
        }
        for (int row = 0; row < rows_; ++row) {
          ScoreTile<count.value, 1>(F32Tail(), pages[p] + row, rows_, kv_.head_dim_k, block,
                                    out + p * rows_ + row, stride);
        }
      }
    });
    for (int p = 0; p < kPages && kv_.cmp_bias_offset >= 0; ++p) {
      const Int8Rows rows = RowsOf(first_page + p);
      for (int q = 0; q < num_queries(); ++q) {
        float* of_page = scores + q * stride + p * rows_;
        for (int row = 0; row < rows_; ++row) {
          if constexpr (kIsInt8) of_page[row] *= rows.scales[row];
          of_page[row] += rows.biases[row];
        }
      }
    }
  }

  const AttentionQuery& query_;
  const PagedKv& kv_;
  const RowTile tile_;
  const int first_kv_head_;
  const int num_kv_heads_;
  const int group_;
  const int rows_;  // compressed rows per page
  const int size_;  // elements of a page's keys
  const Spreader spread_;
  const Spreader spread_pairs_;
  const int64_t query_page_;
  const int64_t max_page_distance_;
  const bool uses_patterns_;
  const bool uses_pairs_;  // of keys in far pages
  const int num_quads_;    // of a query as Int8Queries has it
  int64_t num_far_pages_ = 0;
  int64_t far_distance_ = 0;
  // Of all KV heads, and of the chosen one. Near queries are rotated inside the page only, far ones
  // by the longest distance; int8 rows take those as quads of integers with a scale.
  float* near_of_all_ = nullptr;      // [num_kv_heads, num_queries, NearFloats()]
  float* far_of_all_ = nullptr;       // [num_kv_heads, num_queries, FarFloats()]
  Int8Query* int8_of_all_ = nullptr;  // [num_kv_heads, num_queries]: of the far ones
  int kv_head_ = 0;
  float* near_ = nullptr;
  float* far_ = nullptr;
  Int8Query* int8_ = nullptr;
  float* page_ = nullptr;    // [4, size_]
  float* tables_ = nullptr;  // [2, size_]: cosines, sines
  float* row_ = nullptr;     // [2, head_dim_k]
};

/// scores[i] = −inf outside of [begin, end), for i in [0, size).
HWY_INLINE void MaskOutside(int64_t begin, int64_t end, int64_t size, float* scores) {
  std::fill(scores, scores + std::min(begin, size), kNegativeInfinity);
  std::fill(scores + std::min(end, size), scores + size, kNegativeInfinity);
}

}  // namespace HWY_NAMESPACE
}  // namespace nsa::kernels::cpu
HWY_AFTER_NAMESPACE();

#endif  // NSA_KERNELS_CPU_CMP_SCORES_INL_H_
