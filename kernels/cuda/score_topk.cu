#include <algorithm>
#include <cstdint>
#include <utility>

#include "kernels/check.h"
#include "kernels/cuda/choose_blocks.h"
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/reduce.h"
#include "kernels/cuda/softmax.h"
#include "kernels/cuda/split_attention.h"
#include "kernels/cuda/stretches.h"

/// Scores by the walk of split_attention; the log-sum-exps of coarse windows, where it is over
/// those; block scores as keys; the choice.
namespace nsa::kernels::cuda {
namespace {

constexpr int kScoreThreads = 128;
/// Windows whose probabilities a CTA holds, where a block has fewer.
constexpr int kWindowsPerCta = 1024;

/// One call, or some of its rows.
struct ScoreCall {
  ScoreTopkParams params;  // behind WithClustersAsWindows
  Candidates candidates;
  bool one_row_each;
  int64_t first_index;  // of the batch
  bool has_own_scores;  // scores are of this call: rows count from first_index
  bool sums_groups;     // masses in their place, as those count
  CmpScores scores;
  GroupMasses masses;
  const float* lse;  // [rows, num_q_heads]
  float* own_lse;    // the same where it is of this call: rows count from first_index; or null
  uint32_t* keys;    // [rows of the batch, num_kv_heads, max_blocks]
  int64_t max_blocks;
};

NSA_DEVICE SegmentRow RowAt(const ScoreCall& call, int64_t index) {
  return FindRow(call.params.query.segments, call.one_row_each, call.first_index + index);
}
/// Where the scores of window 0 stand in those of a query.
NSA_DEVICE int64_t FirstScore(const ScoreTopkParams& p) {
  return SplitIndex(p.length, p.stride).quotient - 1;
}
/// The scores of one query, by the numbers of windows.
NSA_DEVICE const float* ScoresOf(const ScoreCall& call, int64_t index, int64_t row, int64_t head) {
  const ScoreTopkParams& p = call.params;
  const int64_t query = (call.has_own_scores ? index : row) * p.query.num_q_heads + head;
  return call.scores.data + query * call.scores.stride + FirstScore(p);
}
/// Windows that a row scores.
NSA_DEVICE int64_t NumWindows(const ScoreCall& call, int64_t position) {
  const ScoreTopkParams& p = call.params;
  if (p.num_clusters > 0) return NumCandidates(call.candidates, position) * p.num_clusters;
  const int64_t behind = position + 1 - p.length;
  return behind < 0 ? 0 : SplitIndex(behind, p.stride).quotient + 1;
}

/// The maximum over the CTA, or the sum. `memory` holds a float for each warp.
NSA_DEVICE float CtaMaxOrNan(float x, float* memory) {
  x = WarpMaxOrNan(x);
  if (LaneIndex() == 0) memory[WarpIndex()] = x;
  SyncThreads();
  float maximum = memory[0];
  for (int w = 1; w < kScoreThreads / kWarpSize; ++w) maximum = MaxOrNan(memory[w], maximum);
  return maximum;
}
NSA_DEVICE float CtaSum(float x, float* memory) {
  x = WarpSum(x);
  if (LaneIndex() == 0) memory[WarpIndex()] = x;
  SyncThreads();
  float sum = 0;
  for (int w = 0; w < kScoreThreads / kWarpSize; ++w) sum += memory[w];
  return sum;
}

/// CTA (r, h): the log-sum-exp over windows `lse_windows` times as long, each the mean of that many
/// that lie end to end; over all where the row sees none so long.
NSA_KERNEL(kScoreThreads) CoarseLseKernel(NSA_ARGS ScoreCall call) {
  NSA_SHARED(float, maxima, kScoreThreads / kWarpSize);
  NSA_SHARED(float, sums, kScoreThreads / kWarpSize);
  const ScoreTopkParams& p = call.params;
  const SegmentRow row = RowAt(call, CtaX());
  if (TakesAll(call.candidates, row)) return;
  const float* scores = ScoresOf(call, CtaX(), row.row, CtaY());
  const int64_t behind = row.position + 1 - int64_t{p.lse_windows} * p.length;
  const bool is_coarse = behind >= 0;
  const int factor = is_coarse ? p.lse_windows : 1;
  const int64_t step = SplitIndex(p.length, p.stride).quotient;
  const int64_t count = is_coarse ? SplitIndex(behind, p.lse_windows * p.stride).quotient + 1
                                  : NumWindows(call, row.position);
  const auto mean = [&](int64_t j) {
    float sum = 0;
    for (int i = 0; i < factor; ++i) sum += scores[j * factor + i * step];
    return sum / static_cast<float>(factor);
  };
  float maximum = -Infinity();
  for (int64_t j = ThreadIndex(); j < count; j += kScoreThreads) {
    maximum = MaxOrNan(mean(j), maximum);
  }
  maximum = CtaMaxOrNan(maximum, maxima);
  float sum = 0;
  for (int64_t j = ThreadIndex(); maximum != -Infinity() && j < count; j += kScoreThreads) {
    sum += Exp(mean(j) - maximum);
  }
  sum = CtaSum(sum, sums);
  if (ThreadIndex() == 0) {
    call.own_lse[CtaX() * p.query.num_q_heads + CtaY()] = LogSumExp(Softmax{maximum, sum});
  }
}

/// Blocks that one CTA scores.
constexpr int BlocksPerCta(const ScoreTopkParams& p) {
  const int windows = p.sel_block_size / p.stride;
  return windows >= kWindowsPerCta ? 1 : kWindowsPerCta / windows;
}
/// Windows that overlap a CTA's blocks.
constexpr int WindowsOfCta(const ScoreTopkParams& p) {
  return BlocksPerCta(p) * (p.sel_block_size / p.stride) + p.length / p.stride - 1;
}

/// Probabilities of windows [first, first + count), summed over the group's heads in their order:
/// here, or in the walk that made the scores, with the same bits.
NSA_DEVICE void SumProbabilities(const ScoreCall& call, const SegmentRow& row, int64_t index,
                                 int64_t kv_head, int64_t first, int count, float* sums) {
  const AttentionQuery& query = call.params.query;
  const int group = query.num_q_heads / query.kv.num_kv_heads;
  if (call.masses.data != nullptr) {
    const float* masses = call.masses.data +
                          (index * query.kv.num_kv_heads + kv_head) * call.masses.stride +
                          FirstScore(call.params) + first;
    for (int i = ThreadIndex(); i < count; i += kScoreThreads) sums[i] = masses[i];
    return;
  }
  const float* scores = ScoresOf(call, index, row.row, kv_head * group) + first;
  const float* lse =
      call.lse + (call.own_lse != nullptr ? index : row.row) * query.num_q_heads + kv_head * group;
  for (int i = ThreadIndex(); i < count; i += kScoreThreads) {
    float sum = 0;
    for (int h = 0; h < group; ++h) sum += Exp(scores[h * call.scores.stride + i] - lse[h]);
    const bool is_mean = call.params.group_reduction == GroupReduction::kMean;
    sums[i] = is_mean ? sum / static_cast<float>(group) : sum;
  }
}

/// Score of a sel_block from the probabilities of windows [first, first + count) (NSA Eq. 9).
NSA_DEVICE float ScoreBlock(const ScoreTopkParams& p, const float* probabilities, int64_t first,
                            int count, int64_t block) {
  const int64_t begin = block * p.sel_block_size, end = begin + p.sel_block_size;
  const int64_t first_token = begin > p.length ? begin - p.length : 0;
  float score = 0;
  for (int64_t window = SplitIndex(first_token, p.stride).quotient;
       window < first + count && window * p.stride < end; ++window) {
    const int64_t from = window * p.stride, to = from + p.length;
    const int64_t overlap = (to < end ? to : end) - (from > begin ? from : begin);
    if (overlap <= 0) continue;
    const float x = probabilities[window - first];
    if (p.block_score == BlockScore::kOverlapSum) {
      score += static_cast<float>(SplitIndex(overlap, p.stride).quotient) * x;
    } else {
      score = MaxOrNan(x, score);
    }
  }
  return score;
}

/// What distance leaves of a block's score.
NSA_DEVICE float Decay(const ScoreTopkParams& p, int64_t position, int64_t block) {
  const int64_t distance = position / kPageSize - block * p.sel_block_size / kPageSize;
  if (p.decay_page_distance < 0 || distance <= p.decay_page_distance) return 1;
  return static_cast<float>(p.decay_page_distance) / static_cast<float>(distance);
}

NSA_DEVICE bool IsForced(const ScoreTopkParams& p, int64_t block, int64_t num_candidates) {
  return block < p.num_initial_blocks ||
         (p.window_size == 0 && block >= num_candidates - p.num_local_blocks);
}

/// CTA (i, c): keys of the c-th blocks of row and KV head i. Dynamic shared memory: probabilities.
NSA_KERNEL(kScoreThreads) BlockKeysKernel(NSA_ARGS ScoreCall call) {
  const ScoreTopkParams& p = call.params;
  const Split place = SplitIndex(CtaX(), p.query.kv.num_kv_heads);
  const SegmentRow row = RowAt(call, place.quotient);
  const int64_t num_candidates = NumCandidates(call.candidates, row.position);
  const int64_t first_block = CtaY() * BlocksPerCta(p);
  if (TakesAll(call.candidates, row) || first_block >= num_candidates) return;
  SharedArena arena;
  float* probabilities = arena.Take<float>(WindowsOfCta(p));
  // Of the windows before a block's begin, length/stride − 1 reach into it.
  const int64_t before = SplitIndex(p.length, p.stride).quotient - 1;
  const int64_t at_begin = first_block * SplitIndex(p.sel_block_size, p.stride).quotient;
  const int64_t first = at_begin > before ? at_begin - before : 0;
  const int64_t end = at_begin - before + WindowsOfCta(p);
  const int64_t num_windows = NumWindows(call, row.position);
  const int64_t last = end < num_windows ? end : num_windows;
  const int count = last > first ? static_cast<int>(last - first) : 0;
  SumProbabilities(call, row, place.quotient, place.remainder, first, count, probabilities);
  SyncThreads();
  uint32_t* keys = call.keys + CtaX() * call.max_blocks;
  for (int i = ThreadIndex(); i < BlocksPerCta(p); i += kScoreThreads) {
    const int64_t block = first_block + i;
    if (block >= num_candidates) continue;
    keys[block] = IsForced(p, block, num_candidates)
                      ? kForcedKey
                      : KeyOf(ScoreBlock(p, probabilities, first, count, block) *
                              Decay(p, row.position, block));
  }
}

/// CTA (i): the choice of row and KV head i, from a copy of its keys in shared memory where there
/// is room.
NSA_KERNEL(kMaxChooserThreads) ChooseKernel(NSA_ARGS ScoreCall call) {
  const ScoreTopkParams& p = call.params;
  const Split place = SplitIndex(CtaX(), p.query.kv.num_kv_heads);
  const SegmentRow row = RowAt(call, place.quotient);
  const int64_t list = row.row * p.query.kv.num_kv_heads + place.remainder;
  const int num_candidates = static_cast<int>(NumCandidates(call.candidates, row.position));
  const int n = NumSelected(call.candidates, row.row);
  int32_t* selected = p.selected + list * p.num_selected_blocks;
  int count = num_candidates;
  if (TakesAll(call.candidates, row)) {
    for (int i = ThreadIndex(); i < count; i += NumThreads()) selected[i] = i;
  } else {
    DeviceCheck(n >= 1 && n <= p.num_selected_blocks);
    const int num_shared = static_cast<int>(NumSharedKeys(call.max_blocks));
    count = static_cast<int>(ChooseBlocks(call.keys + CtaX() * call.max_blocks, num_candidates,
                                          static_cast<uint32_t>(n), num_shared, selected));
  }
  for (int i = count + ThreadIndex(); i < p.num_selected_blocks; i += NumThreads()) {
    selected[i] = -1;
  }
  if (ThreadIndex() == 0) p.num_selected[list] = count;
}

/// Floats of the workspace that each row takes.
struct RowFloats {
  int64_t score_stride;  // of each query head, or group
  int64_t scores;
  int64_t lse;
  int64_t keys;
  int64_t parts;

  int64_t Sum() const { return scores + lse + keys + parts; }
};

int64_t MaxBlocks(const ScoreTopkParams& p, const SegmentsShape& shape) {
  return CeilDiv(shape.max_tokens, p.sel_block_size);
}

SplitAttention ScoreWalk(const ScoreCall& call) {
  const ScoreTopkParams& p = call.params;
  return {.query = p.query,
          .reads = Reads::kCompressed,
          .max_page_distance = p.max_page_distance,
          .length = p.length,
          .stride = p.stride,
          .candidates = call.candidates,
          .scores = call.scores,
          .masses = call.masses,
          .result = {nullptr, p.lse_windows == 1 ? call.own_lse : nullptr},
          .is_batch = true,
          .first_index = call.first_index};
}

RowFloats FloatsOf(const ScoreCall& call, const SegmentsShape& shape) {
  const ScoreTopkParams& p = call.params;
  const int heads = p.query.num_q_heads;
  const int lists = call.sums_groups ? p.query.kv.num_kv_heads : heads;
  const int64_t stride = CmpScoreStride(CeilDiv(shape.max_tokens, kPageSize), p.stride);
  return {.score_stride = stride,
          .scores = call.has_own_scores ? lists * stride : 0,
          .lse = p.cmp_lse == nullptr ? heads : 0,
          .keys = p.query.kv.num_kv_heads * MaxBlocks(p, shape),
          .parts = p.cmp_lse == nullptr ? heads * 2 * MaxSplits(ScoreWalk(call), shape) : 0};
}

ScoreCall MakeCall(const ScoreTopkParams& given, const SegmentsShape& shape) {
  const ScoreTopkParams p = WithClustersAsWindows(given);
  NSA_CHECK(p.stride > 0 && kPageSize % p.stride == 0);
  NSA_CHECK(p.length % p.stride == 0 && p.sel_block_size % p.stride == 0);
  NSA_CHECK(kPageSize % p.sel_block_size == 0 || p.sel_block_size % kPageSize == 0);
  ScoreCall call = {.params = p,
                    .candidates = {p.sel_block_size, p.window_size, p.num_clusters,
                                   p.num_selected_blocks, p.row_num_selected_blocks},
                    .one_row_each = shape.one_row_each,
                    .first_index = 0,
                    .has_own_scores = p.cmp_scores.data == nullptr,
                    .sums_groups = false,
                    .scores = p.cmp_scores,
                    .masses = {},
                    .lse = p.cmp_lse,
                    .own_lse = nullptr,
                    .keys = nullptr,
                    .max_blocks = MaxBlocks(p, shape)};
  // Without a log-sum-exp, probabilities have to wait for all scores.
  call.sums_groups =
      call.has_own_scores && p.cmp_lse != nullptr && CanSumGroups(ScoreWalk(call), shape);
  return call;
}

/// Enqueues the rows of a batch, whose arrays lie one behind the other in the workspace.
void RunBatch(Stream& stream, ScoreCall call, const SegmentsShape& shape, const RowFloats& floats,
              float* memory) {
  const ScoreTopkParams& p = call.params;
  const int64_t num_rows = shape.num_rows, num_kv_heads = p.query.kv.num_kv_heads;
  const auto take = [&](int64_t per_row) {
    return std::exchange(memory, memory + num_rows * per_row);
  };
  call.keys = reinterpret_cast<uint32_t*>(take(floats.keys));
  if (call.sums_groups) {
    call.masses = {take(floats.scores), floats.score_stride, p.cmp_lse,
                   p.group_reduction == GroupReduction::kMean};
  } else if (call.has_own_scores) {
    call.scores = {take(floats.scores), floats.score_stride};
  }
  if (p.cmp_lse == nullptr) call.lse = call.own_lse = take(floats.lse);
  if (call.has_own_scores) {
    LaunchSplitAttention(stream, "score_topk", ScoreWalk(call), shape,
                         {memory, num_rows * floats.parts});
  }
  if (p.lse_windows > 1) {
    Launch(stream,
           {.name = "score_topk",
            .grid_x = num_rows,
            .grid_y = p.query.num_q_heads,
            .num_threads = kScoreThreads},
           CoarseLseKernel, call);
  }
  Launch(stream,
         {.name = "score_topk",
          .grid_x = num_rows * num_kv_heads,
          .grid_y = CeilDiv(call.max_blocks, BlocksPerCta(p)),
          .num_threads = kScoreThreads,
          .shared_bytes = CeilDiv(WindowsOfCta(p), 4) * 16},
         BlockKeysKernel, call);
  Launch(stream,
         {.name = "score_topk",
          .grid_x = num_rows * num_kv_heads,
          .num_threads = NumChooserThreads(call.max_blocks),
          .shared_bytes = ChooserBytes(call.max_blocks)},
         ChooseKernel, call);
}

}  // namespace

int64_t ScoreTopkRowFloats(const ScoreTopkParams& params, const SegmentsShape& shape) {
  return FloatsOf(MakeCall(params, shape), shape).Sum();
}

void ScoreTopk(Stream& stream, const ScoreTopkParams& params, const SegmentsShape& shape,
               const Workspace& workspace) {
  ScoreCall call = MakeCall(params, shape);
  const RowFloats floats = FloatsOf(call, shape);
  const int64_t rows_at_once = workspace.num_floats / std::max<int64_t>(floats.Sum(), 1);
  NSA_CHECK(shape.num_rows == 0 || rows_at_once >= 1);  // ScoreTopkRowFloats
  SegmentsShape batch = shape;
  for (int64_t row = 0; row < shape.num_rows; row += rows_at_once) {
    call.first_index = row;
    batch.num_rows = std::min(rows_at_once, shape.num_rows - row);
    RunBatch(stream, call, batch, floats, workspace.data);
  }
}

}  // namespace nsa::kernels::cuda
