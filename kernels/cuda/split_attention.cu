#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "kernels/cuda/elements.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/paged.h"
#include "kernels/cuda/reduce.h"
#include "kernels/cuda/rotate.h"
#include "kernels/cuda/rows.h"
#include "kernels/cuda/split_attention.h"

namespace nsa::kernels::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kSplitPages = 8;
constexpr int kSplitTokens = kSplitPages * kPageSize;

/// Positions of the tokens that a row sees, or of those in one split: [begin, end).
struct Tokens {
  int64_t begin;
  int64_t end;
};
NSA_DEVICE Tokens VisibleTokens(const SplitAttention& a, int64_t position) {
  if (a.window_size < 0) return {0, position + 1};
  const int64_t begin = a.page_aligned ? PageAlignedWindowStart(position, a.window_size)
                                       : position + 1 - a.window_size;
  return {begin > 0 ? begin : 0, position + 1};
}
NSA_DEVICE Tokens TokensOfSplit(const Tokens& visible, int64_t split) {
  const int64_t begin = split * kSplitTokens, end = begin + kSplitTokens;
  return {begin > visible.begin ? begin : visible.begin, end < visible.end ? end : visible.end};
}

/// What a CTA works on: one row and a few heads of one group.
struct Task {
  SegmentRow row;
  Tokens visible;
  int64_t kv_head;
  int64_t first_head;
  int num_heads;
};

/// A CTA's shared memory. Scores become weights in place.
template <int kHeads>
struct Shared {
  float* q;        // [kSplitPages, head_dim_k, kHeads], turned and scaled for each page
  float* scores;   // [kHeads, kSplitTokens]
  float* maximum;  // [kHeads]
  float* sum;      // [kHeads]
};

/// A softmax over some tokens: Σ exp(score − maximum), and the same with values. Joining goes over
/// splits in rising order.
struct Softmax {
  float maximum = -Infinity();
  float sum = 0;
};
/// What a sum so far and a new one are multiplied by. A NaN stays.
struct JoinFactors {
  float before;
  float added;
};
NSA_DEVICE JoinFactors Join(Softmax& so_far, float maximum, float sum) {
  const float joint = MaxOrNan(maximum, so_far.maximum);
  const JoinFactors f = {so_far.maximum == -Infinity() ? 0.0f : Exp(so_far.maximum - joint),
                         maximum == -Infinity() ? 0.0f : Exp(maximum - joint)};
  so_far = {joint, so_far.sum * f.before + sum * f.added};
  return f;
}
NSA_DEVICE float LogSumExp(const Softmax& s) {
  return s.maximum == -Infinity() ? s.maximum : s.maximum + Log(s.sum);
}
NSA_DEVICE float Quotient(float out, const Softmax& s) {
  return s.maximum == -Infinity() ? 0.0f : FastDivide(out, s.sum);
}

/// The queries of all heads for every page of the split: turned by their own offset, scaled, then
/// turned by the distance of the page (ops/attention.h).
template <int kHeads>
NSA_DEVICE void LayOutQueries(const SplitAttention& a, const Task& task, const Tokens& tokens,
                              const Shared<kHeads>& shared) {
  const AttentionQuery& query = a.query;
  const int dims = query.kv.head_dim_k, half = query.rope.rotary_dim / 2;
  const int64_t own_page = task.row.position / kPageSize;
  const int64_t first_page = tokens.begin / kSplitTokens * kSplitPages;
  for (int item = ThreadIndex(); item < kHeads * (dims - half); item += kThreads) {
    const int head = item % kHeads, i = item / kHeads;
    const bool is_there = head < task.num_heads, is_turned = i < half;
    const float* q =
        query.q + task.row.row * query.q_stride + (task.first_head + head) * int64_t{dims};
    Pair x = {0, 0};
    if (is_there && is_turned) {
      x = RotateFine(query.rope, task.row.position % kPageSize, i, 1, {q[i], q[i + half]});
    } else if (is_there) {
      x = {0, q[i + half]};
    }
    x = {x.a * query.scale, x.b * query.scale};
    for (int64_t page = tokens.begin / kPageSize; page <= (tokens.end - 1) / kPageSize; ++page) {
      float* target = shared.q + (page - first_page) * dims * kHeads;
      const Pair turned = is_turned ? RotateCoarse(query.rope, own_page - page, i, 1, x) : x;
      if (is_turned) target[i * kHeads + head] = turned.a;
      target[(i + half) * kHeads + head] = turned.b;
    }
  }
}

/// A thread a token: its key against the queries of all heads, a chain over dimensions for each.
template <typename T, int kHeads>
NSA_DEVICE void Score(const SplitAttention& a, const Task& task, const Tokens& tokens,
                      const Shared<kHeads>& shared) {
  const PagedKv& kv = a.query.kv;
  const int64_t split_begin = tokens.begin / kSplitTokens * kSplitTokens;
  for (int i = ThreadIndex(); i < kSplitTokens; i += kThreads) {
    const int64_t token = split_begin + i;
    if (token < tokens.begin || token >= tokens.end) continue;
    const int64_t page = token / kPageSize, offset = token % kPageSize;
    const std::byte* slot = HeadSlot(kv, task.row.page_table[page], task.kv_head);
    const T* keys = ElementsAt<T>(slot, 0) + offset;
    const float* q = shared.q + i / kPageSize * kv.head_dim_k * kHeads;
    float sums[kHeads] = {};
    NSA_UNROLL_BY(4)
    for (int dim = 0; dim < kv.head_dim_k; ++dim) {
      const float key = ToFloat(keys[dim * kPageSize]);
      NSA_UNROLL
      for (int h = 0; h < kHeads; ++h) sums[h] = Fma(q[dim * kHeads + h], key, sums[h]);
    }
    const float scale = KeyScale<T>(kv, slot, offset);
    NSA_UNROLL
    for (int h = 0; h < kHeads; ++h) shared.scores[h * kSplitTokens + i] = sums[h] * scale;
  }
}

/// A warp a head: scores to weights exp(score − maximum), with their maximum and sum.
template <int kHeads>
NSA_DEVICE void Weigh(const Tokens& tokens, const Shared<kHeads>& shared) {
  const int begin = static_cast<int>(tokens.begin % kSplitTokens);
  const int end = begin + static_cast<int>(tokens.end - tokens.begin);
  for (int h = WarpIndex(); h < kHeads; h += kThreads / kWarpSize) {
    float* scores = shared.scores + h * kSplitTokens;
    float maximum = -Infinity();
    for (int i = LaneIndex(); i < kSplitTokens; i += kWarpSize) {
      if (i >= begin && i < end) maximum = MaxOrNan(scores[i], maximum);
    }
    maximum = WarpMaxOrNan(maximum);
    float sum = 0;
    for (int i = LaneIndex(); i < kSplitTokens; i += kWarpSize) {
      if (i < begin || i >= end) continue;
      scores[i] = maximum == -Infinity() ? 0.0f : Exp(scores[i] - maximum);
      sum += scores[i];
    }
    sum = WarpSum(sum);
    if (LaneIndex() == 0) {
      shared.maximum[h] = maximum;
      shared.sum[h] = sum;
    }
  }
}

/// Σ weight · value of one dimension for all heads, a chain over tokens for each.
template <typename T, int kHeads>
NSA_DEVICE void SumValues(const SplitAttention& a, const Task& task, const Tokens& tokens,
                          const Shared<kHeads>& shared, int dim, float (&out)[kHeads]) {
  const PagedKv& kv = a.query.kv;
  NSA_UNROLL
  for (int h = 0; h < kHeads; ++h) out[h] = 0;
  for (int64_t begin = tokens.begin; begin < tokens.end;) {
    const int64_t page = begin / kPageSize;
    const int64_t page_end = (page + 1) * kPageSize;
    const int64_t end = page_end < tokens.end ? page_end : tokens.end;
    const std::byte* slot = HeadSlot(kv, task.row.page_table[page], task.kv_head);
    const float* weights = shared.scores + begin % kSplitTokens;
    NSA_UNROLL_BY(4)
    for (int i = 0; i < static_cast<int>(end - begin); ++i) {
      const float value = LoadValue<T>(kv, slot, dim, begin % kPageSize + i);
      NSA_UNROLL
      for (int h = 0; h < kHeads; ++h) out[h] = Fma(weights[h * kSplitTokens + i], value, out[h]);
    }
    begin = end;
  }
}

NSA_DEVICE float* PartOf(const SplitAttention& a, int64_t index, int64_t head, int64_t split) {
  const int64_t part = (index * a.query.num_q_heads + head) * a.num_splits + split;
  return a.parts + part * (a.query.kv.head_dim_v + 2);
}

/// Joins one split into `so_far` and, for this thread's dimensions, into `out` [kHeads, head_dim_v]
/// in shared memory, which only this thread touches.
template <typename T, int kHeads>
NSA_DEVICE void JoinSplit(const SplitAttention& a, const Task& task, const Tokens& tokens,
                          const Shared<kHeads>& shared, Softmax (&so_far)[kHeads], float* out) {
  const int dims = a.query.kv.head_dim_v;
  JoinFactors factors[kHeads];
  NSA_UNROLL
  for (int h = 0; h < kHeads; ++h) {
    factors[h] = Join(so_far[h], shared.maximum[h], shared.sum[h]);
  }
  for (int dim = ThreadIndex(); dim < dims; dim += kThreads) {
    float sums[kHeads];
    SumValues<T>(a, task, tokens, shared, dim, sums);
    NSA_UNROLL
    for (int h = 0; h < kHeads; ++h) {
      float& joined = out[h * dims + dim];
      joined = joined * factors[h].before + sums[h] * factors[h].added;
    }
  }
}

/// Leaves the split's part in the workspace.
template <typename T, int kHeads>
NSA_DEVICE void StorePart(const SplitAttention& a, const Task& task, const Tokens& tokens,
                          const Shared<kHeads>& shared, int64_t index, int64_t split) {
  if (ThreadIndex() < task.num_heads) {
    float* part = PartOf(a, index, task.first_head + ThreadIndex(), split);
    part[0] = shared.maximum[ThreadIndex()];
    part[1] = shared.sum[ThreadIndex()];
  }
  for (int dim = ThreadIndex(); dim < a.query.kv.head_dim_v; dim += kThreads) {
    float sums[kHeads];
    SumValues<T>(a, task, tokens, shared, dim, sums);
    NSA_UNROLL
    for (int h = 0; h < kHeads; ++h) {
      if (h < task.num_heads) PartOf(a, index, task.first_head + h, split)[2 + dim] = sums[h];
    }
  }
}

/// Makes the weights of one split; all threads may read them afterwards. Of the split before, they
/// may be read until all threads are here again: only queries are written before the first barrier.
template <typename T, int kHeads>
NSA_DEVICE void MakeWeights(const SplitAttention& a, const Task& task, const Tokens& tokens,
                            const Shared<kHeads>& shared) {
  LayOutQueries(a, task, tokens, shared);
  SyncThreads();
  Score<T>(a, task, tokens, shared);
  SyncThreads();
  Weigh(tokens, shared);
  SyncThreads();
}

/// All splits of the row, joined into its result. `out` is shared memory.
template <typename T, int kHeads>
NSA_DEVICE void AttendWhole(const SplitAttention& a, const Task& task, const Shared<kHeads>& shared,
                            float* out) {
  const int dims = a.query.kv.head_dim_v;
  for (int dim = ThreadIndex(); dim < dims; dim += kThreads) {
    for (int h = 0; h < kHeads; ++h) out[h * dims + dim] = 0;
  }
  Softmax so_far[kHeads];
  for (int64_t split = task.visible.begin / kSplitTokens;
       split <= (task.visible.end - 1) / kSplitTokens; ++split) {
    const Tokens tokens = TokensOfSplit(task.visible, split);
    MakeWeights<T>(a, task, tokens, shared);
    JoinSplit<T>(a, task, tokens, shared, so_far, out);
  }
  NSA_UNROLL
  for (int h = 0; h < kHeads; ++h) {
    if (h >= task.num_heads) continue;
    const int64_t index = task.row.row * a.query.num_q_heads + task.first_head + h;
    if (ThreadIndex() == 0 && a.result.lse != nullptr) a.result.lse[index] = LogSumExp(so_far[h]);
    for (int dim = ThreadIndex(); dim < dims; dim += kThreads) {
      a.result.out[index * dims + dim] = Quotient(out[h * dims + dim], so_far[h]);
    }
  }
}

constexpr int Passes(int group, int heads) { return (group + heads - 1) / heads; }

/// CTA (i, s): row, KV head and kHeads of its group's heads by i; the s-th split that the row sees,
/// or all of them.
template <typename T, int kHeads>
NSA_KERNEL(kThreads)
AttendKernel(NSA_ARGS SplitAttention a) {
  const PagedKv& kv = a.query.kv;
  const int group = a.query.num_q_heads / kv.num_kv_heads;
  const Split by_pass = SplitIndex(CtaX(), Passes(group, kHeads));
  const Split by_head = SplitIndex(by_pass.quotient, kv.num_kv_heads);
  const int64_t index = by_head.quotient, kv_head = by_head.remainder, pass = by_pass.remainder;
  const SegmentRow row = FindRow(a.query.segments, a.one_row_each, index);
  const int left = group - static_cast<int>(pass) * kHeads;
  const Task task = {row, VisibleTokens(a, row.position), kv_head, kv_head * group + pass * kHeads,
                     left < kHeads ? left : kHeads};
  SharedArena arena;
  const Shared<kHeads> shared = {arena.Take<float>(kSplitPages * kv.head_dim_k * kHeads),
                                 arena.Take<float>(kHeads * kSplitTokens),
                                 arena.Take<float>(kHeads), arena.Take<float>(kHeads)};
  if (a.parts == nullptr) {
    AttendWhole<T>(a, task, shared, arena.Take<float>(kHeads * kv.head_dim_v));
    return;
  }
  const int64_t split = task.visible.begin / kSplitTokens + CtaY();
  if (split * kSplitTokens >= task.visible.end) return;
  const Tokens tokens = TokensOfSplit(task.visible, split);
  MakeWeights<T>(a, task, tokens, shared);
  StorePart<T>(a, task, tokens, shared, index, CtaY());
}

/// CTA (r, h): joins the parts of row r and head h as AttendWhole does.
NSA_KERNEL(kThreads) JoinKernel(NSA_ARGS SplitAttention a) {
  const int dims = a.query.kv.head_dim_v;
  const SegmentRow row = FindRow(a.query.segments, a.one_row_each, CtaX());
  const Tokens visible = VisibleTokens(a, row.position);
  const int64_t splits = (visible.end - 1) / kSplitTokens - visible.begin / kSplitTokens + 1;
  const int64_t index = row.row * a.query.num_q_heads + CtaY();
  Softmax so_far;
  for (int dim = ThreadIndex(); dim < dims; dim += kThreads) {
    so_far = {};
    float out = 0;
    for (int64_t split = 0; split < splits; ++split) {
      const float* part = PartOf(a, CtaX(), CtaY(), split);
      const JoinFactors f = Join(so_far, part[0], part[1]);
      out = out * f.before + part[2 + dim] * f.added;
    }
    a.result.out[index * dims + dim] = Quotient(out, so_far);
  }
  if (ThreadIndex() == 0 && a.result.lse != nullptr) a.result.lse[index] = LogSumExp(so_far);
}

/// Splits that a row of the call sees, at most.
int64_t NumSplits(const SplitAttention& a, const SegmentsShape& shape) {
  const int64_t of_all = CeilDiv(shape.max_tokens, kSplitTokens);
  if (a.window_size < 0) return of_all;
  // An aligned window is longer by less than a page, and a window begins anywhere in a split.
  return std::min(of_all, (a.window_size + kPageSize - 2) / kSplitTokens + 2);
}

template <typename T, int kHeads>
void LaunchHeads(Stream& stream, const char* name, const SplitAttention& a, int64_t num_rows) {
  const PagedKv& kv = a.query.kv;
  const int passes = Passes(a.query.num_q_heads / kv.num_kv_heads, kHeads);
  const int64_t out_floats = a.parts == nullptr ? int64_t{kHeads} * kv.head_dim_v : 0;
  const int64_t floats = CeilDiv(kSplitPages * kv.head_dim_k * kHeads, 4) * 4 +
                         kHeads * kSplitTokens + 2 * CeilDiv(kHeads, 4) * 4 +
                         CeilDiv(out_floats, 4) * 4;
  Launch(stream,
         {.name = name,
          .grid_x = num_rows * kv.num_kv_heads * passes,
          .grid_y = a.parts == nullptr ? 1 : a.num_splits,
          .num_threads = kThreads,
          .shared_bytes = floats * static_cast<int64_t>(sizeof(float))},
         AttendKernel<T, kHeads>, a);
}

}  // namespace

void LaunchSplitAttention(Stream& stream, const char* name, SplitAttention attention,
                          const SegmentsShape& shape, const Workspace& workspace) {
  const AttentionQuery& query = attention.query;
  attention.one_row_each = shape.one_row_each;
  attention.num_splits = NumSplits(attention, shape);
  const int64_t part_floats =
      shape.num_rows * query.num_q_heads * attention.num_splits * int64_t{query.kv.head_dim_v + 2};
  const bool has_parts = attention.num_splits > 1 && part_floats <= workspace.num_floats;
  attention.parts = has_parts ? workspace.data : nullptr;
  const int group = query.num_q_heads / query.kv.num_kv_heads;
  // How many heads share a CTA depends on the group alone, and no head's bits on that number.
  WithElementType(query.kv.dtype, [&](auto element) {
    using T = decltype(element);
    if (group == 1) return LaunchHeads<T, 1>(stream, name, attention, shape.num_rows);
    if (group <= 4) return LaunchHeads<T, 4>(stream, name, attention, shape.num_rows);
    LaunchHeads<T, 8>(stream, name, attention, shape.num_rows);
  });
  if (!has_parts) return;
  Launch(stream,
         {.name = name,
          .grid_x = shape.num_rows,
          .grid_y = query.num_q_heads,
          .num_threads = kThreads},
         JoinKernel, attention);
}

}  // namespace nsa::kernels::cuda
