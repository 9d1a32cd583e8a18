#include "kernels/ops/score_topk.h"

#include <algorithm>
#include <cstdint>
#include <limits>
#include <numeric>

#include "kernels/check.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/paged_attention.h"
#include "kernels/cpu/score_call.h"
#include "kernels/cpu/sparse_attn.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/score_topk.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "kernels/cpu/score_clusters-inl.h"
#include "kernels/cpu/score_windows-inl.h"

HWY_BEFORE_NAMESPACE();
namespace nsa::kernels::cpu {
namespace HWY_NAMESPACE {

void ScorePages(const ScoreCall& call, const RowTile& tile, const ScorePart& part, float* memory,
                float* scores) {
  if (call.HasClusters()) {
    ScoreClusters(call, tile, part, memory, scores);
  } else {
    ScoreWindows(call, tile, part, memory, scores);
  }
}

/// Multiplies the scores behind the keys of blocks that are far away. `keys` has room for a vector
/// behind the candidates.
HWY_INLINE void DecayKeys(const ScoreTopkParams& params, int64_t position, int64_t num_candidates,
                          int32_t* HWY_RESTRICT keys) {
  if (params.decay_page_distance < 0) return;
  const F32Tag d;
  const hn::RebindToSigned<F32Tag> di;
  const auto limit = hn::Set(d, static_cast<float>(params.decay_page_distance));
  const int64_t page_of_query = position / kPageSize;
  const auto query_page = hn::Set(d, static_cast<float>(page_of_query));
  // Exact: a block is some pages, or a power of two of them is one.
  const auto pages_per_block =
      hn::Set(d, static_cast<float>(params.sel_block_size) / static_cast<float>(kPageSize));
  for (int64_t block = 0; block < num_candidates; block += static_cast<int64_t>(hn::Lanes(d))) {
    const auto index = hn::Iota(d, static_cast<float>(block));
    const auto distance = hn::Sub(query_page, hn::Floor(hn::Mul(index, pages_per_block)));
    const auto factor = hn::Div(limit, hn::Max(distance, limit));
    const auto key = hn::LoadU(di, keys + block);
    const auto decayed = hn::BitCast(di, hn::Mul(hn::BitCast(d, key), factor));
    hn::StoreU(hn::IfThenElse(hn::Lt(key, hn::Zero(di)), key, decayed), di, keys + block);
  }
}

/// Raises the keys of blocks that are always chosen.
HWY_INLINE void ForceKeys(const ScoreTopkParams& params, int64_t num_candidates,
                          int32_t* HWY_RESTRICT keys) {
  const int32_t forced = std::numeric_limits<int32_t>::max();
  std::fill_n(keys, std::min<int64_t>(params.num_initial_blocks, num_candidates), forced);
  if (params.window_size == 0) {
    const int64_t num_local = std::min<int64_t>(params.num_local_blocks, num_candidates);
    std::fill_n(keys + num_candidates - num_local, num_local, forced);
  }
}

/// Number of keys > `value` among keys[0, size), size a multiple of the vector.
HWY_INLINE int64_t CountAbove(int32_t value, int64_t size, const int32_t* HWY_RESTRICT keys) {
  const hn::RebindToSigned<F32Tag> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  const auto limit = hn::Set(d, value);
  int64_t count = 0;
  for (int64_t i = 0; i < size; i += lanes) {
    count += static_cast<int64_t>(hn::CountTrue(d, hn::Gt(hn::LoadU(d, keys + i), limit)));
  }
  return count;
}

/// Writes the n best of the candidates in rising order and returns their number. `keys` has room
/// for a vector behind the candidates.
///
/// The n-th best key is found bit by bit: passes over a few kilobytes, no branch on the data.
HWY_INLINE int32_t ChooseBlocks(int64_t num_candidates, int64_t n, int32_t* keys,
                                int32_t* selected) {
  std::fill_n(keys + num_candidates, kVectorPadding, -1);
  const int64_t size = (num_candidates + kVectorPadding - 1) / kVectorPadding * kVectorPadding;
  int32_t threshold = 0;
  int64_t num_in = CountAbove(-1, size, keys);
  for (int bit = 30; bit >= 0 && num_in > n; --bit) {
    const int32_t higher = threshold | (int32_t{1} << bit);
    const int64_t count = CountAbove(higher - 1, size, keys);
    if (count < n) continue;
    threshold = higher;
    num_in = count;
  }
  // Keys above the threshold are in; of those at it, the first.
  int64_t num_ties = n;
  if (num_in > n) num_ties = n - CountAbove(threshold, size, keys);
  const hn::RebindToSigned<F32Tag> di;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(di));
  int32_t num_selected = 0;
  for (int64_t first = 0; first < num_candidates; first += lanes) {
    const auto below = hn::Lt(hn::LoadU(di, keys + first), hn::Set(di, threshold));
    if (hn::AllTrue(di, below)) continue;
    for (int64_t block = first; block < std::min(first + lanes, num_candidates); ++block) {
      if (keys[block] < threshold) continue;
      if (keys[block] == threshold && num_ties-- <= 0) continue;
      selected[num_selected++] = static_cast<int32_t>(block);
    }
  }
  return num_selected;
}

/// Chooses for all rows of a tile from their scores, or from those that cmp_attn left; `memory` as
/// ChooserFloats.
void ChooseForTile(const ScoreCall& call, const RowTile& tile, int kv_head, float* scores,
                   float* memory) {
  const ScoreTopkParams& params = call.params;
  const int64_t stride = call.ScoreFloats(tile);
  for (int32_t i = 0; i < tile.num_rows; ++i) {
    const QueryRow row = tile.Row(i);
    const int64_t index = row.row * params.query.kv.num_kv_heads + kv_head;
    int32_t* selected = params.selected + index * params.num_selected_blocks;
    const int64_t num_candidates = call.NumCandidates(row.position);
    const int64_t n = call.NumSelected(row.row);
    NSA_CHECK(n >= 1 && n <= params.num_selected_blocks);
    int32_t num_selected = static_cast<int32_t>(num_candidates);
    if (num_candidates <= n) {
      std::iota(selected, selected + num_candidates, 0);
    } else {
      int32_t* keys = reinterpret_cast<int32_t*>(memory);
      float* rest = memory + ScoreCall::Padded(num_candidates);
      if (call.HasClusters()) {
        ClusterKeys(call, tile, i, scores, rest, keys);
      } else {
        const CmpScores& kept = params.cmp_scores;
        float* from =
            kept.data == nullptr
                ? scores + int64_t{i} * call.group * stride
                : kept.data + (row.row * params.query.num_q_heads + int64_t{kv_head} * call.group) *
                                  kept.stride;
        WindowKeys(call, row, kv_head, from, kept.data == nullptr ? stride : kept.stride, rest,
                   keys);
      }
      DecayKeys(params, row.position, num_candidates, keys);
      ForceKeys(params, num_candidates, keys);
      num_selected = ChooseBlocks(num_candidates, n, keys, selected);
    }
    std::fill(selected + num_selected, selected + params.num_selected_blocks, -1);
    params.num_selected[index] = num_selected;
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace nsa::kernels::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace nsa::kernels::cpu {
namespace {

HWY_EXPORT(ScorePages);
HWY_EXPORT(ChooseForTile);

/// The fewest pages that one task scores where a call has too few rows for its threads: laying out
/// the queries costs as much as scoring some.
constexpr int64_t kMinPagesPerTask = kPagesPerRange;
/// Tasks per thread in such a call, so that none waits long for the last.
constexpr int64_t kTasksPerThread = 2;

/// Floats of scores that stand in memory at once where pages are scored in ranges: 128 MiB. A row
/// of 9 query heads and a million tokens takes 5 MB.
constexpr int64_t kMaxSharedScores = int64_t{32} << 20;

constexpr int64_t RoundUp(int64_t x, int64_t unit) { return (x + unit - 1) / unit * unit; }

/// score_topk in stages. Where rows are many a tile and a KV head is a task. Else ranges of pages
/// are scored for all heads, and lists chosen when all are; as many tiles at once as keep their
/// scores within kMaxSharedScores, and at least one, so there are two stages for each such batch.
class StagedScoreTopk final : public StagedCall {
 public:
  StagedScoreTopk(Context& context, const ListScope& scope, const ScoreTopkParams& params)
      : context_(context),
        params_(WithClustersAsWindows(params)),
        call_{.params = params_,
              .group = params.query.num_q_heads / params.query.kv.num_kv_heads,
              .tiles = List<RowTile>(scope.memory())},
        tiles_(scope.memory()),
        ranges_(scope.memory()),
        batches_(scope.memory()) {
    const int size = params_.sel_block_size;
    NSA_CHECK(params_.stride > 0 && kPageSize % params_.stride == 0);
    NSA_CHECK(params_.length % params_.stride == 0 && size % params_.stride == 0);
    NSA_CHECK(kPageSize % size == 0 || size % kPageSize == 0);
    const AttentionQuery& query = params_.query;
    call_.tiles =
        MakeTiles(query.segments, query.num_segments, std::clamp(24 / call_.group, 1, 16), scope);
    const int64_t num_lists = static_cast<int64_t>(call_.tiles.size()) * num_kv_heads();
    if (params_.cmp_scores.data == nullptr && num_lists < 4 * context.pool.num_threads()) {
      LayOutRanges();
    }
  }

  int num_stages() const override {
    return batches_.empty() ? 1 : 2 * static_cast<int>(batches_.size());
  }
  int64_t NumTasks(int stage) const override {
    if (batches_.empty()) return static_cast<int64_t>(call_.tiles.size()) * num_kv_heads();
    const Batch& batch = BatchOf(stage);
    return IsChoice(stage) ? (batch.end_tile - batch.first_tile) * num_kv_heads()
                           : batch.end_range - batch.first_range;
  }
  /// Batches share their memory, so one follows the other.
  bool Follows(int stage, int earlier) const override {
    return earlier + 1 == stage || (IsChoice(stage) && earlier + 2 == stage);
  }

  void RunTask(int stage, int64_t task, int worker) override {
    if (batches_.empty()) return RunTile(task, worker);
    const Batch& batch = BatchOf(stage);
    Scratch& scratch = context_.worker[static_cast<size_t>(worker)];
    if (!IsChoice(stage)) {
      const PageRange& range = ranges_[static_cast<size_t>(batch.first_range + task)];
      const TileScores& scores = tiles_[static_cast<size_t>(range.tile)];
      float* memory =
          scratch.Get<float>(static_cast<size_t>(call_.ScorerFloats(*scores.tile, num_kv_heads())));
      HWY_DYNAMIC_DISPATCH(ScorePages)
      (call_, *scores.tile, {0, num_kv_heads(), range.first_page, range.end_page}, memory,
       scores.scores);
      return;
    }
    const TileScores& scores =
        tiles_[static_cast<size_t>(batch.first_tile + task / num_kv_heads())];
    const int kv_head = static_cast<int>(task % num_kv_heads());
    float* memory = scratch.Get<float>(static_cast<size_t>(call_.ChooserFloats(*scores.tile)));
    HWY_DYNAMIC_DISPATCH(ChooseForTile)
    (call_, *scores.tile, kv_head, scores.scores + kv_head * scores.num_floats / num_kv_heads(),
     memory);
  }

 private:
  /// A tile, and where the scores of all its heads stand: [KV heads][queries][cache row].
  struct TileScores {
    const RowTile* tile;
    int64_t num_floats;
    float* scores;
  };
  struct PageRange {
    int64_t tile;  // index in tiles_
    int64_t first_page;
    int64_t end_page;
  };
  /// Tiles whose scores stand in memory at the same time.
  struct Batch {
    int64_t first_tile;
    int64_t end_tile;
    int64_t first_range;
    int64_t end_range;
  };

  int num_kv_heads() const { return params_.query.kv.num_kv_heads; }
  const Batch& BatchOf(int stage) const { return batches_[static_cast<size_t>(stage / 2)]; }
  static bool IsChoice(int stage) { return stage % 2 == 1; }

  void LayOutRanges() {
    int64_t most_floats = 0;
    int64_t num_floats = 0;
    int64_t first_tile = 0;
    for (const RowTile& tile : call_.tiles) {
      const int64_t tile_floats = num_kv_heads() * call_.NumQueries(tile) * call_.ScoreFloats(tile);
      const int64_t index = static_cast<int64_t>(tiles_.size());
      if (index > first_tile && num_floats + tile_floats > kMaxSharedScores) {
        AddBatch(first_tile);
        first_tile = index;
        num_floats = 0;
      }
      tiles_.push_back({&tile, tile_floats, nullptr});
      num_floats += tile_floats;
      most_floats = std::max(most_floats, num_floats);
    }
    AddBatch(first_tile);
    float* const memory =
        context_.shared[kSharedScores].Get<float>(static_cast<size_t>(most_floats));
    for (const Batch& batch : batches_) {
      float* scores = memory;
      for (int64_t tile = batch.first_tile; tile < batch.end_tile; ++tile) {
        tiles_[static_cast<size_t>(tile)].scores = scores;
        scores += tiles_[static_cast<size_t>(tile)].num_floats;
      }
    }
  }

  /// Of the tiles from `first_tile` on.
  void AddBatch(int64_t first_tile) {
    const auto end_tile = static_cast<int64_t>(tiles_.size());
    int64_t num_pages = 0;
    for (int64_t tile = first_tile; tile < end_tile; ++tile) {
      num_pages += call_.NumPages(*tiles_[static_cast<size_t>(tile)].tile);
    }
    const int64_t num_tasks = kTasksPerThread * context_.pool.num_threads();
    const int64_t pages_per_task = RoundUp(
        std::max(kMinPagesPerTask, (num_pages + num_tasks - 1) / num_tasks), kPagesPerRange);
    const auto first_range = static_cast<int64_t>(ranges_.size());
    for (int64_t tile = first_tile; tile < end_tile; ++tile) {
      // The last pages, whose keys are turned one by one, take the longest, and so come first.
      const int64_t end = call_.NumPages(*tiles_[static_cast<size_t>(tile)].tile);
      const int64_t num_ranges = (end + pages_per_task - 1) / pages_per_task;
      for (int64_t range = num_ranges - 1; range >= 0; --range) {
        const int64_t first = range * pages_per_task;
        ranges_.push_back({tile, first, std::min(end, first + pages_per_task)});
      }
    }
    batches_.push_back({first_tile, end_tile, first_range, static_cast<int64_t>(ranges_.size())});
  }

  void RunTile(int64_t task, int worker) {
    const RowTile& tile = call_.tiles[static_cast<size_t>(task / num_kv_heads())];
    const int kv_head = static_cast<int>(task % num_kv_heads());
    const int64_t score_floats = call_.NumQueries(tile) * call_.ScoreFloats(tile);
    const int64_t rest = std::max(call_.ScorerFloats(tile, 1), call_.ChooserFloats(tile));
    float* scores = context_.worker[static_cast<size_t>(worker)].Get<float>(
        static_cast<size_t>(score_floats + rest));
    float* memory = scores + score_floats;
    const int64_t num_pages = call_.NumPages(tile);
    if (num_pages > 0) {
      HWY_DYNAMIC_DISPATCH(ScorePages)(call_, tile, {kv_head, 1, 0, num_pages}, memory, scores);
    }
    HWY_DYNAMIC_DISPATCH(ChooseForTile)(call_, tile, kv_head, scores, memory);
  }

  Context& context_;
  const ScoreTopkParams params_;
  ScoreCall call_;
  List<TileScores> tiles_;
  List<PageRange> ranges_;
  List<Batch> batches_;  // none: a task is a whole tile
};

}  // namespace

StagedCallPtr StageScoreTopk(Context& context, const ListScope& scope,
                             const ScoreTopkParams& params) {
  return MakeStagedCall<StagedScoreTopk>(scope, context, scope, params);
}

int64_t NumChosenBlocks(const ScoreTopkParams& params, const QueryRow& row) {
  const ScoreCall call{.params = params, .group = 1, .tiles = {}};
  return std::min(call.NumCandidates(row.position), call.NumSelected(row.row));
}

void ScoreTopk(Context& context, const ScoreTopkParams& params) {
  const ListScope scope(context);
  RunStages(context, scope, *StageScoreTopk(context, scope, params));
}

}  // namespace nsa::kernels::cpu
#endif  // HWY_ONCE
