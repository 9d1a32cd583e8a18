#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "kernels/check.h"
#include "kernels/cuda/elements.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/mma_attention.h"
#include "kernels/cuda/mma_compressed.h"
#include "kernels/cuda/reduce.h"
#include "kernels/cuda/softmax.h"
#include "kernels/cuda/split_attention.h"
#include "kernels/cuda/split_parts.h"
#include "kernels/cuda/split_scores.h"
#include "kernels/cuda/stretches.h"

namespace nsa::kernels::cuda {
namespace {

/// Makes the weights of one split; all threads may read them afterwards.
template <typename T, int kHeads>
NSA_DEVICE void MakeWeights(const SplitAttention& a, const Task& task, const Shared<kHeads>& shared,
                            int64_t split) {
  MakeScores<T>(a, task, shared, split);
  SyncThreads();
  Weigh(shared.scores, shared.maximum, shared.sum, kHeads);
  SyncThreads();
}

/// Σ weight · value of one dimension for all heads, a chain over rows for each.
template <typename T, int kHeads>
NSA_DEVICE void SumValues(const SplitAttention& a, const Task& task, const Shared<kHeads>& shared,
                          int64_t split, int dim, float (&out)[kHeads]) {
  const Extent& extent = task.extent;
  const int64_t first = split * kSplitRows;
  const int begin = extent.begin > first ? static_cast<int>(extent.begin - first) : 0;
  const int end =
      extent.end < first + kSplitRows ? static_cast<int>(extent.end - first) : kSplitRows;
  NSA_UNROLL
  for (int h = 0; h < kHeads; ++h) out[h] = 0;
  NSA_UNROLL_BY(4)
  for (int i = begin; i < end; ++i) {
    const Stretch& stretch = shared.StretchesOf(split)[i >> a.stretch_log2];
    const int place = stretch.first + (i & ((1 << a.stretch_log2) - 1));
    if (!stretch.Holds(place)) continue;
    const T* values = ElementsAt<T>(stretch.slot, a.rows.v_offset);
    float value = ToFloat(values[place * a.query.kv.head_dim_v + dim]);
    if constexpr (std::is_same_v<T, int8_t>) {
      value *=
          ElementsAt<float>(stretch.slot, a.rows.scale_offset)[(1 << a.rows.rows_log2) + place];
    }
    NSA_UNROLL
    for (int h = 0; h < kHeads; ++h) out[h] = Fma(shared.scores[h * kSplitRows + i], value, out[h]);
  }
}

/// Joins one split into `so_far` and, for this thread's dimensions, into `out` [kHeads, head_dim_v]
/// in shared memory, which only this thread touches.
template <typename T, int kHeads>
NSA_DEVICE void JoinSplit(const SplitAttention& a, const Task& task, const Shared<kHeads>& shared,
                          int64_t split, Softmax (&so_far)[kHeads], float* out) {
  const int dims = OutDims(a);
  JoinFactors factors[kHeads];
  NSA_UNROLL
  for (int h = 0; h < kHeads; ++h) {
    factors[h] = Join(so_far[h], shared.maximum[h], shared.sum[h]);
  }
  for (int dim = ThreadIndex(); dim < dims; dim += kThreads) {
    float sums[kHeads];
    SumValues<T>(a, task, shared, split, dim, sums);
    NSA_UNROLL
    for (int h = 0; h < kHeads; ++h) {
      float& joined = out[h * dims + dim];
      joined = joined * factors[h].before + sums[h] * factors[h].added;
    }
  }
}

/// Leaves the `number`-th split of the row in the workspace.
template <typename T, int kHeads>
NSA_DEVICE void StorePart(const SplitAttention& a, const Task& task, const Shared<kHeads>& shared,
                          int64_t split, int64_t number) {
  if (ThreadIndex() < task.num_heads) {
    float* part = PartOf(a, task.index, task.first_head + ThreadIndex(), number);
    part[0] = shared.maximum[ThreadIndex()];
    part[1] = shared.sum[ThreadIndex()];
  }
  for (int dim = ThreadIndex(); dim < OutDims(a); dim += kThreads) {
    float sums[kHeads];
    SumValues<T>(a, task, shared, split, dim, sums);
    NSA_UNROLL
    for (int h = 0; h < kHeads; ++h) {
      if (h < task.num_heads) PartOf(a, task.index, task.first_head + h, number)[2 + dim] = sums[h];
    }
  }
}

/// All splits of the row, joined into its result. `out` is shared memory.
template <typename T, int kHeads>
NSA_DEVICE void AttendWhole(const SplitAttention& a, const Task& task, const Shared<kHeads>& shared,
                            float* out) {
  const int dims = OutDims(a);
  for (int dim = ThreadIndex(); dim < dims; dim += kThreads) {
    for (int h = 0; h < kHeads; ++h) out[h * dims + dim] = 0;
  }
  Softmax so_far[kHeads];
  const Extent splits = SplitsOf(task.extent);
  for (int64_t split = splits.begin; split < splits.end; ++split) {
    MakeWeights<T>(a, task, shared, split);
    JoinSplit<T>(a, task, shared, split, so_far, out);
  }
  NSA_UNROLL
  for (int h = 0; h < kHeads; ++h) {
    if (h >= task.num_heads) continue;
    const int64_t index = ResultIndex(a, task, task.first_head + h);
    if (ThreadIndex() == 0 && a.result.lse != nullptr) a.result.lse[index] = LogSumExp(so_far[h]);
    for (int dim = ThreadIndex(); dim < dims; dim += kThreads) {
      a.result.out[index * dims + dim] = Quotient(out[h * dims + dim], so_far[h]);
    }
  }
}

/// One split of the row: its scores where there is no softmax, else its part.
template <typename T, int kHeads>
NSA_DEVICE void AttendSplit(const SplitAttention& a, const Task& task, const Shared<kHeads>& shared,
                            int64_t number) {
  const Extent splits = SplitsOf(task.extent);
  const int64_t split = splits.begin + number;
  if (split >= splits.end) return;
  if (a.parts == nullptr) {
    MakeScores<T>(a, task, shared, split);
    return;
  }
  MakeWeights<T>(a, task, shared, split);
  StorePart<T>(a, task, shared, split, number);
}

/// Arrays of a CTA's shared memory, in floats.
struct SharedSizes {
  int q;
  int far_q;
  int far_scale;
  int scores;
  int heads;
  int stretch_bytes;
  int out;
};
template <typename T, int kHeads>
constexpr SharedSizes SizesOf(const SplitAttention& a) {
  const PagedKv& kv = a.query.kv;
  const bool rounds = std::is_same_v<T, int8_t> && a.rows.has_key_quads;
  const bool joins = !a.cta_per_split && a.result.out != nullptr;
  return {kv.head_dim_k * kHeads,
          rounds ? (kv.head_dim_k + 3) / 4 * kHeads : 0,
          rounds ? kHeads : 0,
          kHeads * kSplitRows,
          kHeads,
          2 * (kSplitRows >> a.stretch_log2) * static_cast<int>(sizeof(Stretch)),
          joins ? kHeads * kv.head_dim_v : 0};
}
int64_t SharedBytes(const SharedSizes& s) {
  int64_t bytes = s.stretch_bytes;
  for (const int floats : {s.q, s.far_q, s.far_scale, s.scores, s.heads, s.heads, s.out}) {
    bytes += CeilDiv(floats, 4) * 16;
  }
  return bytes;
}

/// CTA (i, s): row, KV head and kHeads of its group's heads by i; the s-th split that the row
/// reads, or all of them.
template <typename T, int kHeads>
NSA_KERNEL(kThreads)
AttendKernel(NSA_ARGS SplitAttention a) {
  const Task task = TaskOfCta(a, kHeads);
  const SharedSizes sizes = SizesOf<T, kHeads>(a);
  SharedArena arena;
  const Shared<kHeads> shared = {arena.Take<float>(sizes.q),
                                 arena.Take<uint32_t>(sizes.far_q),
                                 arena.Take<float>(sizes.far_scale),
                                 arena.Take<float>(sizes.scores),
                                 arena.Take<float>(sizes.heads),
                                 arena.Take<float>(sizes.heads),
                                 arena.Take<Stretch>(2 * (kSplitRows >> a.stretch_log2)),
                                 kSplitRows >> a.stretch_log2};
  float* out = arena.Take<float>(sizes.out);
  LayOutQuery(a, task, shared);
  if (HasFarRows<T>(a, task)) {
    SyncThreads();
    LayOutFarQuery(a, shared);
  }
  if (a.cta_per_split) {
    AttendSplit<T>(a, task, shared, CtaY());
  } else {
    AttendWhole<T>(a, task, shared, out);
  }
}

/// CTA (r, h): joins the parts of row r and head h as AttendWhole does.
NSA_KERNEL(kThreads) JoinKernel(NSA_ARGS SplitAttention a) {
  const int dims = OutDims(a);
  const Task task = MakeTask(a, CtaX(), CtaY(), 1);
  const Extent splits = SplitsOf(task.extent);
  const int64_t index = ResultIndex(a, task, CtaY());
  const auto join = [&](int dim, float& out) {
    Softmax so_far;
    for (int64_t split = 0; split < splits.end - splits.begin; ++split) {
      const float* part = PartOf(a, CtaX(), CtaY(), split);
      const JoinFactors f = Join(so_far, part[0], part[1]);
      if (dim < dims) out = out * f.before + part[2 + dim] * f.added;
    }
    return so_far;
  };
  for (int dim = ThreadIndex(); dim < dims; dim += kThreads) {
    float out = 0;
    const Softmax softmax = join(dim, out);
    a.result.out[index * dims + dim] = Quotient(out, softmax);
  }
  if (ThreadIndex() == 0 && a.result.lse != nullptr) {
    float out = 0;
    a.result.lse[index] = LogSumExp(join(dims, out));
  }
}

template <typename T, int kHeads>
void LaunchHeads(Stream& stream, const char* name, const SplitAttention& a) {
  const PagedKv& kv = a.query.kv;
  const int passes = Passes(a.query.num_q_heads / kv.num_kv_heads, kHeads);
  Launch(stream,
         {.name = name,
          .grid_x = a.num_rows * kv.num_kv_heads * passes,
          .grid_y = a.cta_per_split ? a.num_splits : 1,
          .num_threads = kThreads,
          .shared_bytes = SharedBytes(SizesOf<T, kHeads>(a))},
         AttendKernel<T, kHeads>, a);
}

/// The kernels that make splits of all rows. Which they are depends on the cache and the group
/// alone, and no head's bits on how many heads share a CTA.
void LaunchRows(Stream& stream, const char* name, const SplitAttention& a) {
  if (TakesTensorCores(a)) return LaunchMmaAttention(stream, name, a);
  if (TakesCompressedTiles(a)) return LaunchMmaCompressed(stream, name, a);
  const int group = a.query.num_q_heads / a.query.kv.num_kv_heads;
  WithElementType(a.rows.dtype, [&](auto element) {
    using T = decltype(element);
    if (group == 1) return LaunchHeads<T, 1>(stream, name, a);
    if (group <= 4) return LaunchHeads<T, 4>(stream, name, a);
    LaunchHeads<T, 8>(stream, name, a);
  });
}

PagedRows TokenRows(const PagedKv& kv) {
  return {.dtype = kv.dtype,
          .slots = kv.slots,
          .page_stride = kv.page_stride,
          .head_stride = kv.head_stride,
          .v_offset = kv.v_offset,
          .scale_offset = kv.scale_offset,
          .places = kv.places,
          .places_stride = kv.places_stride,
          .rows_log2 = std::countr_zero(unsigned{kPageSize})};
}
PagedRows CompressedRows(const PagedKv& kv, int stride) {
  return {.dtype = kv.cmp_dtype,
          .slots = kv.cmp_slots,
          .page_stride = kv.cmp_page_stride,
          .head_stride = kv.cmp_head_stride,
          .v_offset = kv.cmp_v_offset,
          .scale_offset = kv.cmp_scale_offset,
          .bias_offset = kv.cmp_bias_offset,
          .rows_log2 = std::countr_zero(static_cast<unsigned>(kPageSize / stride)),
          .has_key_quads = kv.cmp_dtype == DType::kInt8,
          .is_absolute = kv.cmp_absolute};
}

/// Says where the rows stand.
void LayOut(SplitAttention& a) {
  if (a.reads == Reads::kCompressed) {
    NSA_CHECK(a.stride > 0 && kPageSize % a.stride == 0 && a.length % a.stride == 0);
    NSA_CHECK(!a.query.kv.cmp_absolute || a.max_page_distance < 0);
    a.rows = CompressedRows(a.query.kv, a.stride);
  } else {
    a.rows = TokenRows(a.query.kv);
  }
  NSA_CHECK(a.result.out == nullptr || a.rows.v_offset >= 0);
  a.stretch_log2 = a.rows.rows_log2;
  if (a.reads != Reads::kSelection) return;
  const int size = std::min(a.sel_block_size, kPageSize);
  NSA_CHECK(size > 0 && kPageSize % size == 0 && a.sel_block_size % size == 0);
  a.stretch_log2 = std::countr_zero(static_cast<unsigned>(size));
}

}  // namespace

int64_t MaxSplits(const SplitAttention& a, const SegmentsShape& shape) {
  const int64_t of_all = CeilDiv(shape.max_tokens, kSplitRows);
  switch (a.reads) {
    case Reads::kCompressed:
      return CeilDiv(shape.max_tokens / a.stride, kSplitRows);
    case Reads::kSelection: {
      const int64_t listed = int64_t{a.num_selected_blocks} * a.sel_block_size;
      return CeilDiv(listed + (a.reads_window ? a.window_size + kPageSize : 0), kSplitRows);
    }
    case Reads::kTokens:
      if (a.window_size < 0) return of_all;
      // An aligned window is longer by less than a page, and a window begins anywhere in a split.
      return std::min(of_all, (a.window_size + kPageSize - 2) / kSplitRows + 2);
  }
  return of_all;
}

bool CanSumGroups(SplitAttention attention, const SegmentsShape& shape) {
  LayOut(attention);
  attention.one_row_each = shape.one_row_each;
  return TakesCompressedTiles(attention) && TilesHoldGroups(attention);
}

void LaunchSplitAttention(Stream& stream, const char* name, SplitAttention attention,
                          const SegmentsShape& shape, const Workspace& workspace) {
  const AttentionQuery& query = attention.query;
  const bool has_out = attention.result.out != nullptr;
  const bool has_softmax = has_out || attention.result.lse != nullptr;
  LayOut(attention);
  attention.one_row_each = shape.one_row_each;
  attention.num_rows = shape.num_rows;
  attention.num_splits = MaxSplits(attention, shape);
  const int64_t part_floats = shape.num_rows * query.num_q_heads * attention.num_splits *
                              int64_t{(has_out ? query.kv.head_dim_v : 0) + 2};
  const bool has_parts =
      has_softmax && attention.num_splits > 1 && part_floats <= workspace.num_floats;
  attention.parts = has_parts ? workspace.data : nullptr;
  attention.cta_per_split = has_parts || !has_softmax;
  LaunchRows(stream, name, attention);
  if (!has_parts) return;
  Launch(stream,
         {.name = name,
          .grid_x = shape.num_rows,
          .grid_y = query.num_q_heads,
          .num_threads = kThreads},
         JoinKernel, attention);
}

}  // namespace nsa::kernels::cuda
