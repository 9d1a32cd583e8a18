#include "kernels/ops/cmp_attn.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "kernels/check.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/paged_attention.h"
#include "kernels/cpu/sparse_attn.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/cmp_attn.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "kernels/cpu/cmp_scores-inl.h"

// What all targets share.
#ifndef NSA_KERNELS_CPU_CMP_ATTN_ONCE_
#define NSA_KERNELS_CPU_CMP_ATTN_ONCE_

namespace nsa::kernels::cpu {

/// Pages whose compressed rows share one softmax, and the grain of parallel work for one row. A
/// constant of the arithmetic, so independent of rows and threads.
inline constexpr int64_t kPagesPerSplit = 64;

/// One call. Cache row u is window u + 1 − length/stride.
struct CmpCall {
  const CmpAttnParams& params;
  int group;
  List<RowTile> tiles;

  const PagedKv& kv() const { return params.query.kv; }
  bool HasValues() const { return params.result.out != nullptr; }
  int RowsPerPage() const { return kPageSize / params.stride; }
  int NumQueries(const RowTile& tile) const { return tile.num_rows * group; }
  int64_t FirstRow() const { return params.length / params.stride - 1; }
  /// One past the last cache row that a query sees; 0 where it sees none.
  int64_t EndRow(int64_t position) const {
    const int64_t end = (position + 1) / params.stride;
    return end > FirstRow() ? end : 0;
  }
  int64_t NumPages(const RowTile& tile) const {
    const int64_t end = EndRow(tile.Row(tile.num_rows - 1).position);
    return (end + RowsPerPage() - 1) / RowsPerPage();
  }
  int64_t NumSplits(const RowTile& tile) const {
    return (NumPages(tile) + kPagesPerSplit - 1) / kPagesPerSplit;
  }

  /// Of one query's part: {acc [head_dim_v] where there are values, maximum, sum}.
  int64_t PartFloats() const { return AccFloats() + 2; }
  int64_t AccFloats() const { return HasValues() ? kv().head_dim_v : 0; }
  /// Of one query's scores in a split; vectors are read and written whole.
  int64_t ScoreFloats() const { return kPagesPerSplit * RowsPerPage() + 16; }
  int64_t TaskFloats(const RowTile& tile) const {
    const int64_t num_queries = NumQueries(tile);
    return num_queries * ScoreFloats() +
           CmpScorerFloats(num_queries, kv().head_dim_k, RowsPerPage());
  }
  /// Of a tile's parts for one KV head: [splits][queries].
  int64_t TilePartFloats(const RowTile& tile) const {
    return NumSplits(tile) * NumQueries(tile) * PartFloats();
  }
};

/// Splits [first, end) of a tile and a KV head.
struct CmpTask {
  const RowTile* tile;
  int kv_head;
  int64_t first_split;
  int64_t end_split;
  float* parts;  // of the tile and KV head, all splits
};

}  // namespace nsa::kernels::cpu

#endif  // NSA_KERNELS_CPU_CMP_ATTN_ONCE_

HWY_BEFORE_NAMESPACE();
namespace nsa::kernels::cpu {
namespace HWY_NAMESPACE {

/// acc[q][dim …] = Σ weights[q][row]·values[row] over rows [begin, end) of pages of `rows` rows,
/// for kVectors vectors of dimensions. `pages` are fetched already; `fetched`, null or as many, are
/// to be read later.
template <int kQueries, size_t kVectors, class D, typename T>
HWY_INLINE void CmpValueTile(D d, const T* const* pages, const T* const* fetched, int rows,
                             int begin, int end, int head_dim, const float* weights,
                             int64_t weights_stride, float* const* acc, int dim) {
  hn::Vec<D> sum[kQueries][kVectors];
  for (int q = 0; q < kQueries; ++q) {
    for (size_t i = 0; i < kVectors; ++i) sum[q][i] = hn::Zero(d);
  }
  for (int page = begin / rows; page * rows < end; ++page) {
    if (dim == 0 && fetched != nullptr) PrefetchLines(fetched[page], rows * head_dim);
    const int last = std::min(rows, end - page * rows);
    for (int row = std::max(0, begin - page * rows); row < last; ++row) {
      hn::Vec<D> value[kVectors];
      LoadVectors<kVectors>(d, pages[page] + int64_t{row} * head_dim + dim, value);
      for (int q = 0; q < kQueries; ++q) {
        const auto p = hn::Set(d, weights[q * weights_stride + page * rows + row]);
        for (size_t i = 0; i < kVectors; ++i) sum[q][i] = hn::MulAdd(p, value[i], sum[q][i]);
      }
    }
  }
  for (int q = 0; q < kQueries; ++q) StoreVectorsOf<T, kVectors>(d, sum[q], acc[q] + dim);
}

/// CmpValueTile over all dimensions.
template <int kQueries, typename T>
HWY_NOINLINE void SumCmpValues(const T* const* pages, const T* const* fetched, int rows, int begin,
                               int end, int head_dim, const float* weights, int64_t weights_stride,
                               float* const* acc) {
  const F32Tag d;
  constexpr size_t kVectors = TileVectors<F32Tag>();
  const int lanes = static_cast<int>(hn::Lanes(d));
  const int wide = lanes * static_cast<int>(kVectors);
  int dim = 0;
  for (; dim + wide <= head_dim; dim += wide) {
    CmpValueTile<kQueries, kVectors>(d, pages, fetched, rows, begin, end, head_dim, weights,
                                     weights_stride, acc, dim);
  }
  for (; dim + lanes <= head_dim; dim += lanes) {
    CmpValueTile<kQueries, 1>(d, pages, fetched, rows, begin, end, head_dim, weights,
                              weights_stride, acc, dim);
  }
  for (; dim < head_dim; ++dim) {
    CmpValueTile<kQueries, 1>(F32Tail(), pages, fetched, rows, begin, end, head_dim, weights,
                              weights_stride, acc, dim);
  }
}

/// Runs one task in a worker's scratch memory. T: element type of compressed rows.
template <typename T>
class CmpTile {
 public:
  CmpTile(const CmpCall& call, const CmpTask& task, float* memory)
      : call_(call),
        task_(task),
        tile_(*task.tile),
        rows_(call.RowsPerPage()),
        num_queries_(call.NumQueries(tile_)),
        scorer_(call.params.query, call.params.stride, call.params.max_page_distance, tile_,
                task.kv_head),
        scores_(memory) {
    scorer_.FetchFirst(task.first_split * kPagesPerSplit, EndPage(task.first_split));
    scorer_.Prepare(task.first_split * kPagesPerSplit, EndPage(task.end_split - 1),
                    memory + num_queries_ * call.ScoreFloats());
  }

  /// Memory is to be busy all the time: keys of a split, its values, the next split's keys are read
  /// in this order, and what is fetched is kCmpPagesAhead pages before what is read, across these
  /// borders too.
  void Run() {
    for (int64_t split = task_.first_split; split < task_.end_split; ++split) {
      const int64_t first_page = split * kPagesPerSplit;
      const int64_t end_page = EndPage(split);
      scorer_.Score(first_page, end_page, {.end_page = end_page, .values = call_.HasValues()},
                    scores_, call_.ScoreFloats());
      for (int64_t page = first_page; call_.HasValues() && page < end_page; ++page) {
        values_[page - first_page] = scorer_.Values(page);
      }
      // What is read behind the values: the next split's first keys.
      const int64_t last = split + 1 < task_.end_split ? EndPage(split + 1) - 1 : end_page - 1;
      for (int64_t i = 0; call_.HasValues() && i < kCmpPagesAhead; ++i) {
        values_[end_page - first_page + i] = scorer_.Keys(std::min(end_page + i, last));
      }
      for (int32_t row = 0; row < tile_.num_rows; ++row) Step(row, split);
    }
  }

 private:
  int64_t EndPage(int64_t split) const {
    return std::min(call_.NumPages(tile_), (split + 1) * kPagesPerSplit);
  }

  /// The parts of one row's queries for one split.
  void Step(int32_t row, int64_t split) {
    const int64_t origin = split * kPagesPerSplit * rows_;
    const int64_t end_row = std::min(call_.EndRow(tile_.Row(row).position), EndPage(split) * rows_);
    const int begin = static_cast<int>(std::max<int64_t>(0, call_.FirstRow() - origin));
    const int end = static_cast<int>(std::max<int64_t>(begin, end_row - origin));
    ForEachQueryBlock(call_.group, [&](auto count, int first) {
      const int query = row * call_.group + first;
      float* weights = scores_ + query * call_.ScoreFloats();
      if (begin < end) Keep(row, first, count.value, origin + begin, end - begin, weights + begin);
      float* acc[kTileQueries];
      Softmax state[kTileQueries];
      Softmax* states[kTileQueries];
      float factors[kTileQueries];  // of sums before these rows: there are none
      for (int i = 0; i < count.value; ++i) {
        acc[i] = task_.parts + (split * num_queries_ + query + i) * call_.PartFloats();
        state[i] = {kNegativeInfinity, 0};
        states[i] = state + i;
      }
      SoftmaxStep<count.value>(begin, end, weights, call_.ScoreFloats(), states, factors);
      if (call_.HasValues()) {
        const bool fetches = row == 0 && first == 0;
        SumCmpValues<count.value>(values_, fetches ? values_ + kCmpPagesAhead : nullptr, rows_,
                                  begin, end, call_.kv().head_dim_v, weights, call_.ScoreFloats(),
                                  acc);
      }
      for (int i = 0; i < count.value; ++i) {
        acc[i][call_.AccFloats()] = state[i].maximum;
        acc[i][call_.AccFloats() + 1] = state[i].sum;
      }
    });
  }

  /// Leaves scores of `count` rows from `cache_row` on for score_topk.
  void Keep(int32_t row, int first_head, int num_heads, int64_t cache_row, int count,
            const float* scores) const {
    const CmpScores& kept = call_.params.scores;
    if (kept.data == nullptr) return;
    const int64_t head = int64_t{task_.kv_head} * call_.group + first_head;
    float* to = kept.data +
                (tile_.Row(row).row * call_.params.query.num_q_heads + head) * kept.stride +
                cache_row;
    for (int i = 0; i < num_heads; ++i) {
      std::copy_n(scores + i * call_.ScoreFloats(), count, to + i * kept.stride);
    }
  }

  const CmpCall& call_;
  const CmpTask& task_;
  const RowTile& tile_;
  const int rows_;
  const int num_queries_;
  CmpScorer<T> scorer_;
  float* scores_;  // [num_queries, ScoreFloats()]; scores, then weights
  const T* values_[kPagesPerSplit + kCmpPagesAhead] = {};  // and what is read behind them
};

void RunCmpTask(const CmpCall& call, const CmpTask& task, float* memory) {
  WithCmpType(call.kv().cmp_dtype, [&]<typename T>(T) { CmpTile<T>(call, task, memory).Run(); });
}

/// The results of a tile's rows and one KV head, from their parts in the order of splits; `acc` has
/// room for AccFloats. A split that a query does not reach adds 0.
void JoinSplits(const CmpCall& call, const RowTile& tile, int kv_head, const float* parts,
                float* acc) {
  const BranchOutput& result = call.params.result;
  const int num_queries = call.NumQueries(tile);
  const int dim_v = static_cast<int>(call.AccFloats());
  for (int q = 0; q < num_queries; ++q) {
    Softmax total = {kNegativeInfinity, 0};
    std::fill_n(acc, dim_v, 0.0f);
    for (int64_t split = 0; split < call.NumSplits(tile); ++split) {
      const float* part = parts + (split * num_queries + q) * call.PartFloats();
      JoinSoftmax({part[dim_v], part[dim_v + 1]}, part, dim_v, total, acc);
    }
    const int64_t index = tile.Row(q / call.group).row * call.params.query.num_q_heads +
                          int64_t{kv_head} * call.group + q % call.group;
    FinishSoftmax(total, acc, dim_v, call.HasValues() ? result.out + index * dim_v : nullptr,
                  result.lse == nullptr ? nullptr : result.lse + index);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace nsa::kernels::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace nsa::kernels::cpu {
namespace {

HWY_EXPORT(RunCmpTask);
HWY_EXPORT(JoinSplits);

/// Tasks per thread where a call has few rows, so that none waits long for the last.
constexpr int64_t kTasksPerThread = 6;

/// cmp_attn in stages: where rows are many a tile and a KV head is a task; else runs of splits are,
/// so that few rows keep all threads busy, and a second stage joins what they made.
class StagedCmpAttn final : public StagedCall {
 public:
  StagedCmpAttn(Context& context, const ListScope& scope, const CmpAttnParams& params)
      : context_(context),
        call_{.params = params,
              .group = params.query.num_q_heads / params.query.kv.num_kv_heads,
              .tiles = List<RowTile>(scope.memory())},
        tasks_(scope.memory()),
        joins_(scope.memory()) {
    const AttentionQuery& query = params.query;
    call_.tiles =
        MakeTiles(query.segments, query.num_segments, std::clamp(24 / call_.group, 1, 16), scope);
    const int64_t num_lists = static_cast<int64_t>(call_.tiles.size()) * query.kv.num_kv_heads;
    if (num_lists < 4 * context.pool.num_threads()) LayOutSplits();
  }

  int num_stages() const override { return joins_.empty() ? 1 : 2; }
  int64_t NumTasks(int stage) const override {
    if (joins_.empty()) return static_cast<int64_t>(call_.tiles.size()) * call_.kv().num_kv_heads;
    return static_cast<int64_t>(stage == 0 ? tasks_.size() : joins_.size());
  }
  bool Follows(int /*stage*/, int /*earlier*/) const override { return true; }

  void RunTask(int stage, int64_t task, int worker) override {
    if (joins_.empty()) return RunTile(task, worker);
    Scratch& scratch = context_.worker[static_cast<size_t>(worker)];
    if (stage == 0) {
      const CmpTask& part = tasks_[static_cast<size_t>(task)];
      float* memory = scratch.Get<float>(static_cast<size_t>(call_.TaskFloats(*part.tile)));
      HWY_DYNAMIC_DISPATCH(RunCmpTask)(call_, part, memory);
      return;
    }
    const CmpTask& join = joins_[static_cast<size_t>(task)];
    float* acc = scratch.Get<float>(static_cast<size_t>(call_.AccFloats()));
    HWY_DYNAMIC_DISPATCH(JoinSplits)(call_, *join.tile, join.kv_head, join.parts, acc);
  }

 private:
  void LayOutSplits() {
    const int num_kv_heads = call_.kv().num_kv_heads;
    int64_t num_splits = 0;
    int64_t num_floats = 0;
    for (const RowTile& tile : call_.tiles) {
      num_splits += num_kv_heads * call_.NumSplits(tile);
      num_floats += num_kv_heads * call_.TilePartFloats(tile);
    }
    const int64_t num_tasks = kTasksPerThread * context_.pool.num_threads();
    const int64_t splits_per_task = std::max<int64_t>(1, (num_splits + num_tasks - 1) / num_tasks);
    float* parts = context_.shared[kCmpParts].Get<float>(static_cast<size_t>(num_floats));
    for (const RowTile& tile : call_.tiles) {
      for (int head = 0; head < num_kv_heads; ++head) {
        const int64_t end = call_.NumSplits(tile);
        joins_.push_back({&tile, head, 0, end, parts});
        for (int64_t split = 0; split < end; split += splits_per_task) {
          tasks_.push_back({&tile, head, split, std::min(end, split + splits_per_task), parts});
        }
        parts += call_.TilePartFloats(tile);
      }
    }
  }

  /// All splits of a tile and a KV head.
  void RunTile(int64_t task, int worker) {
    const int num_kv_heads = call_.kv().num_kv_heads;
    const RowTile& tile = call_.tiles[static_cast<size_t>(task / num_kv_heads)];
    const int kv_head = static_cast<int>(task % num_kv_heads);
    const int64_t memory_floats = std::max(call_.TaskFloats(tile), call_.AccFloats());
    float* memory = context_.worker[static_cast<size_t>(worker)].Get<float>(
        static_cast<size_t>(memory_floats + call_.TilePartFloats(tile)));
    const CmpTask whole = {&tile, kv_head, 0, call_.NumSplits(tile), memory + memory_floats};
    if (whole.end_split > 0) HWY_DYNAMIC_DISPATCH(RunCmpTask)(call_, whole, memory);
    HWY_DYNAMIC_DISPATCH(JoinSplits)(call_, tile, kv_head, whole.parts, memory);
  }

  Context& context_;
  CmpCall call_;
  List<CmpTask> tasks_;
  List<CmpTask> joins_;  // none: a task is a whole tile
};

}  // namespace

StagedCallPtr StageCmpAttn(Context& context, const ListScope& scope, const CmpAttnParams& params) {
  const PagedKv& kv = params.query.kv;
  NSA_CHECK(kv.cmp_bias_offset < 0);
  NSA_CHECK(params.stride > 0 && kPageSize % params.stride == 0);
  NSA_CHECK(params.length % params.stride == 0);
  NSA_CHECK(params.result.out == nullptr || kv.cmp_v_offset >= 0);
  return MakeStagedCall<StagedCmpAttn>(scope, context, scope, params);
}

void CmpAttn(Context& context, const CmpAttnParams& params) {
  const ListScope scope(context);
  RunStages(context, scope, *StageCmpAttn(context, scope, params));
}

}  // namespace nsa::kernels::cpu
#endif  // HWY_ONCE
