// Scores of compressed rows, compiled once for each Highway target: no include guard of the usual
// kind.
#if defined(NSA_KERNELS_CPU_CMP_SCORES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef NSA_KERNELS_CPU_CMP_SCORES_INL_H_
#undef NSA_KERNELS_CPU_CMP_SCORES_INL_H_
#else
#define NSA_KERNELS_CPU_CMP_SCORES_INL_H_
#endif

#include <algorithm>
#include <cstdint>

#include "hwy/highway.h"
#include "kernels/check.h"
#include "kernels/cpu/attention-inl.h"
#include "kernels/cpu/paged_attention.h"
#include "kernels/ops/attention.h"

HWY_BEFORE_NAMESPACE();
namespace nsa::kernels::cpu {
namespace HWY_NAMESPACE {

/// Adds the upper half of a vector to the lower until `rows` lanes are left, and stores them.
template <class D>
HWY_INLINE void FoldAndStore(D d, hn::Vec<D> x, int rows, float* to) {
#if HWY_TARGET != HWY_SCALAR
  if constexpr (hn::MaxLanes(D()) > 1) {
    if (static_cast<int>(hn::Lanes(d)) > rows) {
      const hn::Half<D> half;
      FoldAndStore(half, hn::Add(hn::LowerHalf(half, x), hn::UpperHalf(half, x)), rows, to);
      return;
    }
  }
#else
  (void)rows;
#endif
  hn::StoreU(x, d, to);
}

/// Lays vectors out like a page of `rows` compressed keys: out[i·rows + r] = x[i] for r < rows.
class Spreader {
 public:
  explicit Spreader(int rows) : rows_(rows) {
    const int lanes = static_cast<int>(hn::Lanes(F32Tag()));
    for (int i = 0; rows <= lanes && i < rows * lanes; ++i) index_[i] = i / rows;
  }

  void operator()(const float* HWY_RESTRICT x, int count, float* HWY_RESTRICT out) const {
    const F32Tag d;
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

/// out[q][page·rows + r] = bias_page[r] + Σ_dim query[q][dim]·k_page[dim][r] for kPages pages.
/// `patterns` are the queries as Spreader lays them out. Lanes run over rows and dimensions; the
/// lanes of one row are added up at the end.
template <int kQueries, int kPages, typename K, typename T>
HWY_NOINLINE void ScorePatterns(const K* const* pages, const T* const* biases, int rows,
                                int head_dim, const float* HWY_RESTRICT patterns, float* scores,
                                int64_t scores_stride) {
  const F32Tag d;
  const int size = head_dim * rows;
  hn::Vec<F32Tag> sum[kQueries][kPages];
  for (int p = 0; p < kPages; ++p) {
    const auto first = biases[p] != nullptr ? LoadCache(d, biases[p]) : hn::Zero(d);
    for (int q = 0; q < kQueries; ++q) sum[q][p] = first;
  }
  for (int i = 0; i < size; i += static_cast<int>(hn::Lanes(d))) {
    hn::Vec<F32Tag> key[kPages];
    for (int p = 0; p < kPages; ++p) key[p] = LoadCache(d, pages[p] + i);
    for (int q = 0; q < kQueries; ++q) {
      const auto x = hn::LoadU(d, patterns + int64_t{q} * size + i);
      for (int p = 0; p < kPages; ++p) sum[q][p] = hn::MulAdd(x, key[p], sum[q][p]);
    }
  }
  for (int q = 0; q < kQueries; ++q) {
    for (int p = 0; p < kPages; ++p) {
      FoldAndStore(d, sum[q][p], rows, scores + q * scores_stride + p * rows);
    }
  }
}

/// Scores scale·q·K̂ of a tile's rows and the query heads of some KV heads, one KV head at a time,
/// page by page.
///
/// The tile's rows stand in one page, so one rotation of a page of compressed keys serves them all:
/// that is cheaper than rotating every query for every page. Pages from `max_page_distance` on
/// share one rotation, which is put into the queries once. T: element type of compressed rows.
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
        query_page_(tile.Row(0).position / kPageSize),
        max_page_distance_(max_page_distance),
        uses_patterns_(rows_ < static_cast<int>(hn::Lanes(F32Tag())) &&
                       size_ % static_cast<int>(hn::Lanes(F32Tag())) == 0) {}

  int num_queries() const { return tile_.num_rows * group_; }

  /// Rotates and lays out the queries of all KV heads in `memory` (CmpScorerFloats), which Score
  /// reads. The first KV head is chosen.
  void Prepare(float* memory) {
    queries_ = memory;
    page_ = queries_ + 2 * num_kv_heads_ * num_queries() * QueryFloats();
    tables_ = page_ + 2 * size_;
    for (int index = num_kv_heads_ - 1; index >= 0; --index) {
      ChooseHead(index);
      PrepareHead();
    }
  }

  /// The KV head that Score is about, counted from the first.
  void ChooseHead(int index) {
    kv_head_ = first_kv_head_ + index;
    near_ = queries_ + 2 * index * num_queries() * QueryFloats();
    far_ = near_ + num_queries() * QueryFloats();
  }

  /// scores[q·scores_stride + (page − first_page)·rows + slot] for pages [first_page, end_page).
  void Score(int64_t first_page, int64_t end_page, float* scores, int64_t scores_stride) {
    int64_t page = first_page;
    const int64_t far_end = std::min(end_page, num_far_pages_);
    for (; page + 2 <= far_end; page += 2) {
      const T* const pages[2] = {Keys(page), Keys(page + 1)};
      ScorePages<2>(page, pages, far_, scores + (page - first_page) * rows_, scores_stride);
    }
    for (; page < far_end; ++page) {
      const T* const pages[1] = {Keys(page)};
      ScorePages<1>(page, pages, far_, scores + (page - first_page) * rows_, scores_stride);
    }
    for (; page + 2 <= end_page; page += 2) {
      RotatePage(page, page_);
      RotatePage(page + 1, page_ + size_);
      const float* const pages[2] = {page_, page_ + size_};
      ScorePages<2>(page, pages, near_, scores + (page - first_page) * rows_, scores_stride);
    }
    for (; page < end_page; ++page) {
      RotatePage(page, page_);
      const float* const pages[1] = {page_};
      ScorePages<1>(page, pages, near_, scores + (page - first_page) * rows_, scores_stride);
    }
  }

 private:
  void PrepareHead() {
    float* row = tables_ + 2 * size_;
    const RopeView& rope = query_.rope;
    const int half = rope.rotary_dim / 2;
    // Without rotation all pages are alike.
    num_far_pages_ = half == 0 ? query_page_ + 1
                     : max_page_distance_ < 0
                         ? 0
                         : std::max<int64_t>(0, query_page_ - max_page_distance_ + 1);
    const int64_t longest = num_far_pages_ > 0 ? max_page_distance_ : query_page_;
    NSA_CHECK(half == 0 || longest < rope.num_coarse);
    for (int q = 0; q < num_queries(); ++q) {
      const QueryRow query_row = tile_.Row(q / group_);
      const int64_t fine = query_row.position % kPageSize * half;
      const int64_t head = int64_t{kv_head_} * group_ + q % group_;
      RotateRow(rope.fine_cos + fine, rope.fine_sin + fine, half, kv_.head_dim_k,
                query_.q + query_row.row * query_.q_stride + head * kv_.head_dim_k, row);
      for (int dim = 0; dim < kv_.head_dim_k; ++dim) row[dim] *= query_.scale;
      LayOut(row, near_ + q * QueryFloats());
      if (num_far_pages_ == 0) continue;
      const int64_t coarse = std::max<int64_t>(0, max_page_distance_) * half;
      RotateRow(rope.coarse_cos + coarse, rope.coarse_sin + coarse, half, kv_.head_dim_k, row,
                row + kv_.head_dim_k);
      LayOut(row + kv_.head_dim_k, far_ + q * QueryFloats());
    }
  }

  int64_t QueryFloats() const { return uses_patterns_ ? size_ : kv_.head_dim_k; }

  void LayOut(const float* x, float* out) const {
    if (uses_patterns_) {
      spread_(x, kv_.head_dim_k, out);
    } else {
      std::copy_n(x, kv_.head_dim_k, out);
    }
  }

  const T* Keys(int64_t page) const {
    return reinterpret_cast<const T*>(kv_.cmp_slots +
                                      tile_.segment->page_table[page] * kv_.cmp_page_stride +
                                      kv_head_ * kv_.cmp_head_stride);
  }

  /// Biases of the page's rows, null where rows have none.
  const T* Biases(int64_t page) const {
    if (kv_.cmp_bias_offset < 0) return nullptr;
    return reinterpret_cast<const T*>(reinterpret_cast<const std::byte*>(Keys(page)) +
                                      kv_.cmp_bias_offset);
  }

  /// scores[q][r] += bias[r] of a page.
  void AddBiases(const T* biases, int num_queries, float* scores, int64_t stride) const {
    if (biases == nullptr) return;
    const F32Tag d;
    const int lanes = static_cast<int>(hn::Lanes(d));
    for (int q = 0; q < num_queries; ++q, scores += stride) {
      int row = 0;
      for (; row + lanes <= rows_; row += lanes) {
        hn::StoreU(hn::Add(hn::LoadU(d, scores + row), LoadCache(d, biases + row)), d,
                   scores + row);
      }
      for (; row < rows_; ++row) {
        scores[row] += hn::GetLane(LoadCache(F32Tail(), biases + row));
      }
    }
  }

  /// out = the page's keys turned back by its distance from the queries.
  void RotatePage(int64_t page, float* HWY_RESTRICT out) {
    const RopeView& rope = query_.rope;
    const int half = rope.rotary_dim / 2;
    const int64_t coarse = (query_page_ - page) * half;
    spread_(rope.coarse_cos + coarse, half, tables_);
    spread_(rope.coarse_sin + coarse, half, tables_ + size_);
    const T* keys = Keys(page);
    const int count = half * rows_;
    const F32Tag d;
    const int lanes = static_cast<int>(hn::Lanes(d));
    int i = 0;
    for (; i + lanes <= count; i += lanes) RotatePair(d, keys, i, count, out);
    for (; i < count; ++i) RotatePair(F32Tail(), keys, i, count, out);
    for (i = 2 * count; i + lanes <= size_; i += lanes)
      hn::StoreU(LoadCache(d, keys + i), d, out + i);
    for (; i < size_; ++i) hn::StoreU(LoadCache(F32Tail(), keys + i), F32Tail(), out + i);
  }

  template <class D>
  HWY_INLINE void RotatePair(D d, const T* HWY_RESTRICT keys, int i, int count,
                             float* HWY_RESTRICT out) const {
    const auto c = hn::LoadU(d, tables_ + i);
    const auto s = hn::LoadU(d, tables_ + size_ + i);
    const auto a = LoadCache(d, keys + i);
    const auto b = LoadCache(d, keys + i + count);
    hn::StoreU(hn::MulAdd(b, s, hn::Mul(a, c)), d, out + i);
    hn::StoreU(hn::NegMulAdd(a, s, hn::Mul(b, c)), d, out + i + count);
  }

  template <int kPages, typename K>
  void ScorePages(int64_t first_page, const K* const* pages, const float* queries, float* scores,
                  int64_t stride) {
    const T* biases[kPages];
    for (int p = 0; p < kPages; ++p) biases[p] = Biases(first_page + p);
    ForEachQueryBlock(num_queries(), [&](auto count, int first) {
      const float* block = queries + first * QueryFloats();
      float* out = scores + first * stride;
      if (uses_patterns_) {
        ScorePatterns<count.value, kPages>(pages, biases, rows_, kv_.head_dim_k, block, out,
                                           stride);
        return;
      }
      for (int p = 0; p < kPages; ++p) {
        if (rows_ >= static_cast<int>(hn::Lanes(F32Tag()))) {
          ScoreRows<count.value>(pages[p], rows_, 0, rows_, kv_.head_dim_k, block, out + p * rows_,
                                 stride);
        } else {
          for (int row = 0; row < rows_; ++row) {
            ScoreTile<count.value, 1>(F32Tail(), pages[p] + row, rows_, kv_.head_dim_k, block,
                                      out + p * rows_ + row, stride);
          }
        }
        AddBiases(biases[p], count.value, out + p * rows_, stride);
      }
    });
  }

  const AttentionQuery& query_;
  const PagedKv& kv_;
  const RowTile tile_;
  const int first_kv_head_;
  const int num_kv_heads_;
  const int group_;
  const int rows_;  // compressed rows per page
  const int size_;  // floats of a page's keys
  const Spreader spread_;
  const int64_t query_page_;
  const int64_t max_page_distance_;
  const bool uses_patterns_;
  int64_t num_far_pages_ = 0;
  int kv_head_ = 0;           // the chosen one
  float* queries_ = nullptr;  // [num_kv_heads, {near, far}]
  float* near_ = nullptr;     // [num_queries, QueryFloats()], rotated inside the page only
  float* far_ = nullptr;      // [num_queries, QueryFloats()], rotated by the longest distance
  float* page_ = nullptr;     // [2, size_]
  float* tables_ = nullptr;   // [2, size_]: cosines, sines
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
