#include "kernels/ops/score_topk.h"

#include <algorithm>
#include <bit>
#include <cstdint>
#include <limits>
#include <numeric>
#include <span>
#include <utility>

#include "kernels/check.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/paged_attention.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/score_topk.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "kernels/cpu/cmp_scores-inl.h"

// What all targets share.
#ifndef NSA_KERNELS_CPU_SCORE_TOPK_ONCE_
#define NSA_KERNELS_CPU_SCORE_TOPK_ONCE_

namespace nsa::kernels::cpu {

/// Arrays that are read in whole vectors are this much longer than what they hold.
inline constexpr int64_t kVectorPadding = 16;

/// One call: how many windows and candidates its rows have. Windows are counted by the stride that
/// they end with, as the cache does: row u of the cache is window u + 1 − length/stride.
struct ScoreCall {
  const ScoreTopkParams& params;
  int group;
  List<RowTile> tiles;

  int RowsPerPage() const { return kPageSize / params.stride; }

  int NumQueries(const RowTile& tile) const { return tile.num_rows * group; }
  int64_t FirstRow() const { return params.length / params.stride - 1; }
  int64_t EndRow(int64_t position) const {
    if (params.num_clusters > 0) return NumCandidates(position) * params.num_clusters;
    return std::max(FirstRow(), (position + 1) / params.stride);
  }
  int64_t NumCandidates(int64_t position) const {
    const int64_t size = params.sel_block_size;
    if (params.window_size == 0) return position / size + 1;
    return PageAlignedWindowStart(position, params.window_size) / size;
  }
  int64_t NumSelected(int64_t row) const {
    return params.row_num_selected_blocks != nullptr ? params.row_num_selected_blocks[row]
                                                     : params.num_selected_blocks;
  }
  /// Pages to score for a tile: none where every row may take all its candidates.
  int64_t NumPages(const RowTile& tile) const {
    for (int32_t i = 0; i < tile.num_rows; ++i) {
      const QueryRow row = tile.Row(i);
      if (NumCandidates(row.position) <= NumSelected(row.row)) continue;
      const int64_t end = EndRow(tile.Row(tile.num_rows - 1).position);
      return end == FirstRow() ? 0 : (end + RowsPerPage() - 1) / RowsPerPage();
    }
    return 0;
  }
  /// Floats of one query's scores.
  int64_t ScoreFloats(const RowTile& tile) const {
    return (NumPages(tile) * RowsPerPage() + 2 * kVectorPadding) / kVectorPadding * kVectorPadding;
  }
  int64_t ScorerFloats(const RowTile& tile, int num_kv_heads) const {
    return CmpScorerFloats(int64_t{num_kv_heads} * NumQueries(tile), params.query.kv.head_dim_k,
                           RowsPerPage());
  }
  /// Floats that choosing needs: the group's probabilities, then a key for each candidate.
  int64_t ChooserFloats(const RowTile& tile) const {
    const int64_t num_candidates = NumCandidates(tile.Row(tile.num_rows - 1).position);
    return ProbabilityFloats(num_candidates) + num_candidates + kVectorPadding;
  }
  int64_t ProbabilityFloats(int64_t num_candidates) const {
    const int64_t count = num_candidates * (params.sel_block_size / params.stride) + FirstRow();
    return (count + 2 * kVectorPadding) / kVectorPadding * kVectorPadding;
  }
};

/// What one task scores for a tile's rows.
struct ScorePart {
  int first_kv_head;
  int num_kv_heads;
  int64_t first_page;
  int64_t end_page;
};

}  // namespace nsa::kernels::cpu

#endif  // NSA_KERNELS_CPU_SCORE_TOPK_ONCE_

HWY_BEFORE_NAMESPACE();
namespace nsa::kernels::cpu {
namespace HWY_NAMESPACE {

template <typename T>
void ScoreTyped(const ScoreCall& call, const RowTile& tile, const ScorePart& part, float* memory,
                float* scores) {
  CmpScorer<T> scorer(call.params.query, call.params.stride, call.params.max_page_distance, tile,
                      part.first_kv_head, part.num_kv_heads);
  scorer.Prepare(memory);
  const int64_t stride = call.ScoreFloats(tile);
  // The rows of a page's heads lie side by side: read together they are one stream, and one look-up
  // of an address. With many queries these would have to come from a farther cache each time.
  const int64_t step = call.NumQueries(tile) > kTileQueries ? part.end_page - part.first_page : 2;
  for (int64_t page = part.first_page; page < part.end_page; page += step) {
    const int64_t end = std::min(page + step, part.end_page);
    for (int head = 0; head < part.num_kv_heads; ++head) {
      scorer.ChooseHead(head);
      scorer.Score(page, end,
                   scores + head * call.NumQueries(tile) * stride + page * call.RowsPerPage(),
                   stride);
    }
  }
}

/// Scores of a tile's queries for some pages: scores[KV head of the part][query][cache row].
void ScorePages(const ScoreCall& call, const RowTile& tile, const ScorePart& part, float* memory,
                float* scores) {
  WithCmpType(call.params.query.kv.cmp_dtype,
              [&]<typename T>(T) { ScoreTyped<T>(call, tile, part, memory, scores); });
}

/// Turns scores[0, size) into exp(score − origin) in place and returns their sum.
HWY_INLINE float ExpInPlace(float origin, int64_t size, float* HWY_RESTRICT scores) {
  const F32Tag d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  auto sum = hn::Zero(d);
  for (int64_t i = 0; i < size; i += lanes) {
    const auto weight = ExpOfSoftmax(d, hn::Sub(hn::LoadU(d, scores + i), hn::Set(d, origin)));
    hn::StoreU(weight, d, scores + i);
    sum = hn::Add(sum, weight);
  }
  return hn::GetLane(hn::SumOfLanes(d, sum));
}

HWY_INLINE float MaximumOf(int64_t size, const float* HWY_RESTRICT scores) {
  const F32Tag d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  auto maximum = hn::Set(d, kNegativeInfinity);
  for (int64_t i = 0; i < size; i += lanes) {
    maximum = hn::Max(maximum, hn::LoadU(d, scores + i));
  }
  return hn::GetLane(hn::MaxOfLanes(d, maximum));
}

/// Probabilities of one row's windows, reduced over the group: probabilities[cache row], 0 for rows
/// that the query does not see. Overwrites the scores ([group] × stride apart).
HWY_INLINE void GroupProbabilities(const ScoreCall& call, const QueryRow& row, int kv_head,
                                   float* scores, int64_t stride, int64_t num_probabilities,
                                   float* HWY_RESTRICT probabilities) {
  const F32Tag d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  const ScoreTopkParams& params = call.params;
  std::fill_n(probabilities, num_probabilities, 0.0f);
  const int64_t end = call.EndRow(row.position);
  if (end == call.FirstRow()) return;
  const int64_t size = (end + lanes - 1) / lanes * lanes;
  for (int h = 0; h < call.group; ++h) {
    float* head_scores = scores + h * stride;
    MaskOutside(call.FirstRow(), end, size, head_scores);
    float factor = params.group_reduction == GroupReduction::kMean ? 1.0f / call.group : 1.0f;
    if (params.cmp_lse != nullptr) {
      const int64_t head = int64_t{kv_head} * call.group + h;
      ExpInPlace(params.cmp_lse[row.row * params.query.num_q_heads + head],
                 std::min(size, num_probabilities), head_scores);
    } else {
      factor /= ExpInPlace(FiniteMaximum(MaximumOf(size, head_scores)), size, head_scores);
    }
    for (int64_t i = 0; i < std::min(size, num_probabilities); i += lanes) {
      const auto sum = hn::LoadU(d, probabilities + i);
      const auto weight = hn::LoadU(d, head_scores + i);
      hn::StoreU(hn::MulAdd(weight, hn::Set(d, factor), sum), d, probabilities + i);
    }
  }
}

/// Score of a block as an integer with the same order: −1 for NaN, scores being sums of
/// probabilities and so not negative.
HWY_INLINE int32_t ScoreKey(float score) {
  if (!(score >= 0)) return -1;
  return std::bit_cast<int32_t>(score + 0.0f);
}

/// Multiplies the scores behind the keys of blocks that are far away.
HWY_INLINE void DecayKeys(const ScoreTopkParams& params, int64_t position, int64_t num_candidates,
                          int32_t* HWY_RESTRICT keys) {
  if (params.decay_page_distance < 0) return;
  for (int64_t block = 0; block < num_candidates; ++block) {
    const int64_t distance = position / kPageSize - block * params.sel_block_size / kPageSize;
    if (distance <= params.decay_page_distance) break;
    const float factor =
        static_cast<float>(params.decay_page_distance) / static_cast<float>(distance);
    if (keys[block] >= 0) keys[block] = ScoreKey(std::bit_cast<float>(keys[block]) * factor);
  }
}

/// keys[block] for all candidates (Eq. 9). Cache rows block·b … block·b + a + b − 2 overlap a
/// block, a = length/stride and b = sel_block_size/stride, the e-th of them in min(e + 1, a, b, a +
/// b − 1 − e) strides.
HWY_INLINE void ScoreBlocks(const ScoreCall& call, int64_t position, int64_t num_candidates,
                            const float* HWY_RESTRICT probabilities, int32_t* HWY_RESTRICT keys) {
  const ScoreTopkParams& params = call.params;
  const int a = params.length / params.stride;
  const int b = params.sel_block_size / params.stride;
  const int span = a + b - 1;
  if (params.block_score == BlockScore::kOverlapSum && a == 2 && b == 4) {
    for (int64_t block = 0; block < num_candidates; ++block) {
      const float* p = probabilities + block * 4;
      const float inner = (p[1] + p[2]) + p[3];
      keys[block] = ScoreKey((p[0] + p[4]) + 2 * inner);
    }
  } else if (params.block_score == BlockScore::kOverlapSum && a == 1 && b == 8) {
    for (int64_t block = 0; block < num_candidates; ++block) {
      const float* p = probabilities + block * 8;
      keys[block] = ScoreKey(((p[0] + p[1]) + (p[2] + p[3])) + ((p[4] + p[5]) + (p[6] + p[7])));
    }
  } else if (params.block_score == BlockScore::kOverlapSum) {
    // Counting windows by their overlap is the same as this: each stride of a block gets the mass
    // of the a windows that cover it.
    for (int64_t block = 0; block < num_candidates; ++block) {
      const float* p = probabilities + block * b;
      float score = 0;
      for (int e = 0; e < b; ++e) {
        for (int i = 0; i < a; ++i) score += p[e + i];
      }
      keys[block] = ScoreKey(score);
    }
  } else {
    for (int64_t block = 0; block < num_candidates; ++block) {
      const float* p = probabilities + block * b;
      float score = 0;
      for (int e = 0; e < span; ++e) score = p[e] <= score ? score : p[e];  // keeps NaN
      keys[block] = ScoreKey(score);
    }
  }
  DecayKeys(params, position, num_candidates, keys);
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
  int32_t num_selected = 0;
  for (int64_t block = 0; block < num_candidates; ++block) {
    if (keys[block] < threshold) continue;
    if (keys[block] == threshold && num_ties-- <= 0) continue;
    selected[num_selected++] = static_cast<int32_t>(block);
  }
  return num_selected;
}

/// Chooses for all rows of a tile from their scores; `memory` as ChooserFloats.
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
      const int64_t num_probabilities = call.ProbabilityFloats(num_candidates);
      int32_t* keys = reinterpret_cast<int32_t*>(memory + num_probabilities);
      GroupProbabilities(call, row, kv_head, scores + i * call.group * stride, stride,
                         num_probabilities, memory);
      ScoreBlocks(call, row.position, num_candidates, memory, keys);
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
constexpr int64_t kMinPagesPerTask = 16;
/// Tasks per thread in such a call, so that none waits long for the last.
constexpr int64_t kTasksPerThread = 4;

/// Floats of scores that stand in memory at once where pages are scored in ranges: 128 MiB. A row
/// of 9 query heads and a million tokens takes 5 MB.
constexpr int64_t kMaxSharedScores = int64_t{32} << 20;

void RunWholeTiles(Context& context, const ScoreCall& call) {
  const int num_kv_heads = call.params.query.kv.num_kv_heads;
  context.pool.ParallelFor(
      static_cast<int64_t>(call.tiles.size()) * num_kv_heads, [&](int64_t index, int worker) {
        const RowTile& tile = call.tiles[index / num_kv_heads];
        const int kv_head = static_cast<int>(index % num_kv_heads);
        const int64_t score_floats = call.NumQueries(tile) * call.ScoreFloats(tile);
        const int64_t rest = std::max(call.ScorerFloats(tile, 1), call.ChooserFloats(tile));
        float* scores = context.worker[worker].Get<float>(static_cast<size_t>(score_floats + rest));
        float* memory = scores + score_floats;
        const int64_t num_pages = call.NumPages(tile);
        if (num_pages > 0) {
          HWY_DYNAMIC_DISPATCH(ScorePages)(call, tile, {kv_head, 1, 0, num_pages}, memory, scores);
        }
        HWY_DYNAMIC_DISPATCH(ChooseForTile)(call, tile, kv_head, scores, memory);
      });
}

/// A tile, and where the scores of all its heads stand: [KV heads][queries][cache row].
struct TileScores {
  const RowTile* tile;
  int64_t num_floats;
  float* scores = nullptr;
};

void ScoreAndChoose(Context& context, const ListScope& scope, const ScoreCall& call,
                    std::span<const TileScores> batch) {
  const int num_kv_heads = call.params.query.kv.num_kv_heads;
  int64_t num_pages = 0;
  for (const TileScores& scores : batch) num_pages += call.NumPages(*scores.tile);
  const int64_t num_tasks = kTasksPerThread * context.pool.num_threads();
  const int64_t pages_per_task =
      std::max(kMinPagesPerTask, (num_pages + num_tasks - 1) / num_tasks);
  List<std::pair<const TileScores*, int64_t>> ranges(scope.memory());  // with the first page
  for (const TileScores& scores : batch) {
    for (int64_t page = 0; page < call.NumPages(*scores.tile); page += pages_per_task) {
      ranges.emplace_back(&scores, page);
    }
  }
  context.pool.ParallelFor(static_cast<int64_t>(ranges.size()), [&](int64_t index, int worker) {
    const auto& [scores, first_page] = ranges[index];
    const RowTile& tile = *scores->tile;
    float* memory = context.worker[worker].Get<float>(
        static_cast<size_t>(call.ScorerFloats(tile, num_kv_heads)));
    const int64_t end = std::min(call.NumPages(tile), first_page + pages_per_task);
    HWY_DYNAMIC_DISPATCH(ScorePages)
    (call, tile, {0, num_kv_heads, first_page, end}, memory, scores->scores);
  });
  context.pool.ParallelFor(static_cast<int64_t>(batch.size()) * num_kv_heads, [&](int64_t index,
                                                                                  int worker) {
    const TileScores& scores = batch[index / num_kv_heads];
    const int kv_head = static_cast<int>(index % num_kv_heads);
    float* memory =
        context.worker[worker].Get<float>(static_cast<size_t>(call.ChooserFloats(*scores.tile)));
    HWY_DYNAMIC_DISPATCH(ChooseForTile)
    (call, *scores.tile, kv_head, scores.scores + kv_head * scores.num_floats / num_kv_heads,
     memory);
  });
}

/// Scores ranges of pages in parallel, then chooses. Takes as many tiles at once as keep their
/// scores within kMaxSharedScores, and at least one.
void RunPageRanges(Context& context, const ListScope& scope, const ScoreCall& call) {
  List<TileScores> tiles(scope.memory());
  const auto run = [&](std::span<TileScores> batch, int64_t num_floats) {
    float* scores = context.shared[1].Get<float>(static_cast<size_t>(num_floats));
    for (TileScores& tile : batch) {
      tile.scores = scores;
      scores += tile.num_floats;
    }
    ScoreAndChoose(context, scope, call, batch);
  };
  int64_t num_floats = 0;
  for (const RowTile& tile : call.tiles) {
    const int64_t tile_floats =
        call.params.query.kv.num_kv_heads * call.NumQueries(tile) * call.ScoreFloats(tile);
    if (!tiles.empty() && num_floats + tile_floats > kMaxSharedScores) {
      run(tiles, num_floats);
      tiles.clear();
      num_floats = 0;
    }
    tiles.push_back({&tile, tile_floats});
    num_floats += tile_floats;
  }
  if (!tiles.empty()) run(tiles, num_floats);
}

}  // namespace

void ScoreTopk(Context& context, const ScoreTopkParams& given) {
  const ScoreTopkParams params = WithClustersAsWindows(given);
  const AttentionQuery& query = params.query;
  NSA_CHECK(params.stride > 0 && kPageSize % params.stride == 0);
  NSA_CHECK(params.length % params.stride == 0 && params.sel_block_size % params.stride == 0);
  NSA_CHECK(kPageSize % params.sel_block_size == 0 || params.sel_block_size % kPageSize == 0);
  const int group = query.num_q_heads / query.kv.num_kv_heads;
  const ListScope scope(context);
  const ScoreCall call{
      .params = params,
      .group = group,
      .tiles = MakeTiles(query.segments, query.num_segments, std::clamp(24 / group, 1, 16), scope)};
  const int64_t num_tasks = static_cast<int64_t>(call.tiles.size()) * query.kv.num_kv_heads;
  if (num_tasks < 4 * context.pool.num_threads()) {
    RunPageRanges(context, scope, call);
  } else {
    RunWholeTiles(context, call);
  }
}

}  // namespace nsa::kernels::cpu
#endif  // HWY_ONCE
