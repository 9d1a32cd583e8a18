#include "kernels/ops/cmp_attn.h"

#include <algorithm>
#include <cstdint>

#include "kernels/check.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/paged_attention.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/cmp_attn.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "kernels/cpu/cmp_scores-inl.h"

// What all targets share.
#ifndef NSA_KERNELS_CPU_CMP_ATTN_ONCE_
#define NSA_KERNELS_CPU_CMP_ATTN_ONCE_

namespace nsa::kernels::cpu {

/// Pages whose compressed rows go through one step of the online softmax.
inline constexpr int64_t kPagesPerStep = 32;

}  // namespace nsa::kernels::cpu

#endif  // NSA_KERNELS_CPU_CMP_ATTN_ONCE_

HWY_BEFORE_NAMESPACE();
namespace nsa::kernels::cpu {
namespace HWY_NAMESPACE {

/// One tile's rows and one KV head. Cache row u is window u + 1 − length/stride.
template <typename T>
class CmpTile {
 public:
  CmpTile(const CmpAttnParams& params, const RowTile& tile, int kv_head, Scratch& scratch)
      : params_(params),
        kv_(params.query.kv),
        tile_(tile),
        kv_head_(kv_head),
        group_(params.query.num_q_heads / params.query.kv.num_kv_heads),
        rows_(kPageSize / params.stride),
        // Vectors are read and written whole.
        scores_stride_(kPagesPerStep * rows_ + 16),
        scorer_(params.query, params.stride, params.max_page_distance, tile, kv_head) {
    const int64_t num_queries = int64_t{tile.num_rows} * group_;
    const int64_t acc_floats = params.result.out != nullptr ? num_queries * kv_.head_dim_v : 0;
    const int64_t scorer_floats = CmpScorerFloats(num_queries, kv_.head_dim_k, rows_);
    float* memory = scratch.Get<float>(
        static_cast<size_t>(num_queries * (scores_stride_ + 2) + acc_floats + scorer_floats));
    scores_ = memory;
    acc_ = scores_ + num_queries * scores_stride_;
    states_ = reinterpret_cast<Softmax*>(acc_ + acc_floats);
    scorer_.Prepare(0, NumPages(), acc_ + acc_floats + 2 * num_queries);
    std::fill_n(acc_, acc_floats, 0.0f);
    std::fill_n(states_, num_queries, Softmax{kNegativeInfinity, 0});
  }

  void Run() {
    const int64_t num_pages = NumPages();
    for (int64_t page = 0; page < num_pages; page += kPagesPerStep) {
      const int64_t end_page = std::min(num_pages, page + kPagesPerStep);
      scorer_.Score(page, end_page, num_pages, scores_, scores_stride_);
      for (int32_t row = 0; row < tile_.num_rows; ++row) Step(row, page, end_page);
    }
    const BranchOutput& result = params_.result;
    for (int q = 0; q < tile_.num_rows * group_; ++q) {
      const int64_t index = tile_.Row(q / group_).row * params_.query.num_q_heads +
                            int64_t{kv_head_} * group_ + q % group_;
      FinishSoftmax(states_[q], acc_ + int64_t{q} * kv_.head_dim_v, kv_.head_dim_v,
                    result.out == nullptr ? nullptr : result.out + index * kv_.head_dim_v,
                    result.lse == nullptr ? nullptr : result.lse + index);
    }
  }

 private:
  int64_t FirstRow() const { return params_.length / params_.stride - 1; }
  /// One past the last cache row that a row of the tile sees.
  int64_t EndRow(int32_t row) const {
    const int64_t end = (tile_.Row(row).position + 1) / params_.stride;
    return end > FirstRow() ? end : 0;
  }

  int64_t NumPages() const { return (EndRow(tile_.num_rows - 1) + rows_ - 1) / rows_; }

  /// Takes pages [first_page, end_page) into the sums of one row's queries.
  void Step(int32_t row, int64_t first_page, int64_t end_page) {
    const int64_t origin = first_page * rows_;
    const int begin = static_cast<int>(std::max<int64_t>(0, FirstRow() - origin));
    const int end = static_cast<int>(std::min(EndRow(row), end_page * rows_) - origin);
    if (begin >= end) return;
    ForEachQueryBlock(group_, [&](auto count, int first) {
      const int query = row * group_ + first;
      float* weights = scores_ + query * scores_stride_;
      float factors[kTileQueries];
      float* acc[kTileQueries];
      Softmax* states[kTileQueries];
      for (int i = 0; i < count.value; ++i) {
        states[i] = states_ + query + i;
        acc[i] = acc_ + int64_t{query + i} * kv_.head_dim_v;
      }
      SoftmaxStep<count.value>(begin, end, weights, scores_stride_, states, factors);
      if (params_.result.out == nullptr) return;
      for (int64_t page = first_page + begin / rows_; page * rows_ < origin + end; ++page) {
        const int64_t page_row = page * rows_ - origin;
        const std::byte* values = kv_.cmp_slots +
                                  tile_.segment->page_table[page] * kv_.cmp_page_stride +
                                  kv_head_ * kv_.cmp_head_stride + kv_.cmp_v_offset;
        AddValues<count.value>(reinterpret_cast<const T*>(values), kv_.head_dim_v,
                               static_cast<int>(std::max<int64_t>(0, begin - page_row)),
                               static_cast<int>(std::min<int64_t>(rows_, end - page_row)),
                               weights + page_row, scores_stride_, factors, acc);
        std::fill_n(factors, kTileQueries, 1.0f);
      }
    });
  }

  const CmpAttnParams& params_;
  const PagedKv& kv_;
  const RowTile tile_;
  const int kv_head_;
  const int group_;
  const int rows_;
  const int64_t scores_stride_;
  CmpScorer<T> scorer_;
  float* scores_;    // [rows · group, scores_stride_]; scores, then weights
  float* acc_;       // [rows · group, head_dim_v]
  Softmax* states_;  // [rows · group]
};

void RunCmpTile(const CmpAttnParams& params, const RowTile& tile, int kv_head, Scratch& scratch) {
  WithCmpType(params.query.kv.cmp_dtype,
              [&]<typename T>(T) { CmpTile<T>(params, tile, kv_head, scratch).Run(); });
}

}  // namespace HWY_NAMESPACE
}  // namespace nsa::kernels::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace nsa::kernels::cpu {
namespace {
HWY_EXPORT(RunCmpTile);
}  // namespace

void CmpAttn(Context& context, const CmpAttnParams& params) {
  NSA_CHECK(params.query.kv.cmp_bias_offset < 0);
  const AttentionQuery& query = params.query;
  NSA_CHECK(params.stride > 0 && kPageSize % params.stride == 0);
  NSA_CHECK(params.length % params.stride == 0);
  NSA_CHECK(params.result.out == nullptr || query.kv.cmp_v_offset >= 0);
  const int num_kv_heads = query.kv.num_kv_heads;
  const int group = query.num_q_heads / num_kv_heads;
  const ListScope scope(context);
  const List<RowTile> tiles =
      MakeTiles(query.segments, query.num_segments, std::clamp(24 / group, 1, 16), scope);
  context.pool.ParallelFor(static_cast<int64_t>(tiles.size()) * num_kv_heads,
                           [&](int64_t index, int worker) {
                             HWY_DYNAMIC_DISPATCH(RunCmpTile)
                             (params, tiles[index / num_kv_heads],
                              static_cast<int>(index % num_kv_heads), context.worker[worker]);
                           });
}

}  // namespace nsa::kernels::cpu
#endif  // HWY_ONCE
