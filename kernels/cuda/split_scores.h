#ifndef NSA_KERNELS_CUDA_SPLIT_SCORES_H_
#define NSA_KERNELS_CUDA_SPLIT_SCORES_H_

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "kernels/cuda/elements.h"
#include "kernels/cuda/int8_row.h"
#include "kernels/cuda/reduce.h"
#include "kernels/cuda/rotate.h"
#include "kernels/cuda/split_parts.h"
#include "kernels/cuda/stretches.h"

/// The scores of one split: queries of a few heads against 512 rows of the cache, in float32.
///
/// Not the query is turned by a page's distance, but the keys of the page back by it: that is done
/// once for all heads, wherever pages hold few rows.
namespace nsa::kernels::cuda {

/// A CTA's shared memory. Scores become weights in place.
template <int kHeads>
struct Shared {
  float* q;            // [head_dim_k, kHeads], turned by the query's own offset, and scaled
  uint32_t* far_q;     // [⌈head_dim_k/4⌉, kHeads]: LayOutFarQuery
  float* far_scale;    // [kHeads]
  float* scores;       // [kHeads, kSplitRows]
  float* maximum;      // [kHeads]
  float* sum;          // [kHeads]
  Stretch* stretches;  // [2, kSplitRows >> stretch_log2], of even splits and of odd ones
  int num_stretches;   // of a split

  NSA_DEVICE Stretch* StretchesOf(int64_t split) const {
    return stretches + (split % 2 == 0 ? 0 : num_stretches);
  }
};

template <int kHeads>
NSA_DEVICE void LayOutQuery(const SplitAttention& a, const Task& task,
                            const Shared<kHeads>& shared) {
  const AttentionQuery& query = a.query;
  const int dims = query.kv.head_dim_k, half = query.rope.rotary_dim / 2;
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
    if (is_turned) shared.q[i * kHeads + head] = x.a * query.scale;
    shared.q[(i + half) * kHeads + head] = x.b * query.scale;
  }
}

/// Whether some rows of the split may be far: their query is rounded to 8 bits (ops/score_topk.h).
template <typename T>
NSA_DEVICE bool HasFarRows(const SplitAttention& a, const Task& task) {
  if constexpr (!std::is_same_v<T, int8_t>) return false;
  if (!a.rows.has_key_quads) return false;
  return a.query.rope.rotary_dim == 0 ||
         (a.max_page_distance >= 0 && task.row.position / kPageSize >= a.max_page_distance);
}

/// The query of far rows, a warp a head. shared.q is there.
template <int kHeads>
NSA_DEVICE void LayOutFarQuery(const SplitAttention& a, const Shared<kHeads>& shared) {
  const int dims = a.query.kv.head_dim_k, half = a.query.rope.rotary_dim / 2;
  for (int head = WarpIndex(); head < kHeads; head += kThreads / kWarpSize) {
    const auto turned = [&](int dim) {
      if (dim >= 2 * half) return shared.q[dim * kHeads + head];
      const int i = dim < half ? dim : dim - half;
      const Pair x = {shared.q[i * kHeads + head], shared.q[(i + half) * kHeads + head]};
      const Pair far = RotateCoarse(a.query.rope, a.max_page_distance, i, 1, x);
      return dim < half ? far.a : far.b;
    };
    float largest = 0;
    for (int dim = LaneIndex(); dim < dims; dim += kWarpSize) {
      largest = MaxOrNan(Abs(turned(dim)), largest);
    }
    const RowScale scale = ScaleOf(WarpMaxOrNan(largest));
    for (int quad = LaneIndex(); quad < (dims + 3) / 4; quad += kWarpSize) {
      uint32_t bytes = 0;
      for (int i = 0; i < 4 && 4 * quad + i < dims; ++i) {
        const int8_t rounded = RoundToInt8(turned(4 * quad + i), scale);
        bytes |= uint32_t{static_cast<uint8_t>(rounded)} << 8 * i;
      }
      shared.far_q[quad * kHeads + head] = bytes;
    }
    if (LaneIndex() == 0) shared.far_scale[head] = scale.scale;
  }
}

/// The key of one row, dimension by dimension, without its scale.
template <typename T>
struct Key {
  const T* elements;
  int rows_log2;
  bool has_quads;

  NSA_DEVICE Key(const PagedRows& rows, const std::byte* slot, int place)
      : elements(ElementsAt<T>(slot, 0) + (rows.has_key_quads ? 4 * place : place)),
        rows_log2(rows.rows_log2),
        has_quads(std::is_same_v<T, int8_t> && rows.has_key_quads) {}
  NSA_DEVICE float At(int dim) const {
    const int quad = dim / 4 << (rows_log2 + 2);
    return ToFloat(elements[has_quads ? quad + dim % 4 : dim << rows_log2]);
  }
};

/// All heads' queries times a key that is turned back by `distance` pages, a chain over dimensions
/// for each.
template <typename T, int kHeads>
NSA_DEVICE void Dot(const AttentionQuery& query, const float* q, const Key<T>& key,
                    int64_t distance, float (&sums)[kHeads]) {
  const int dims = query.kv.head_dim_k, half = query.rope.rotary_dim / 2;
  const float* cosines = query.rope.coarse_cos + distance * half;
  const float* sines = query.rope.coarse_sin + distance * half;
  NSA_UNROLL_BY(2)
  for (int i = 0; i < half; ++i) {
    const Pair turned = Rotate({key.At(i), key.At(i + half)}, cosines[i], -sines[i]);
    NSA_UNROLL
    for (int h = 0; h < kHeads; ++h) {
      sums[h] = Fma(q[i * kHeads + h], turned.a, sums[h]);
      sums[h] = Fma(q[(i + half) * kHeads + h], turned.b, sums[h]);
    }
  }
  NSA_UNROLL_BY(4)
  for (int dim = 2 * half; dim < dims; ++dim) {
    const float x = key.At(dim);
    NSA_UNROLL
    for (int h = 0; h < kHeads; ++h) sums[h] = Fma(q[dim * kHeads + h], x, sums[h]);
  }
}

/// The same of far rows: products of 8-bit integers, exact.
template <int kHeads>
NSA_DEVICE void FarDot(const SplitAttention& a, const Shared<kHeads>& shared, const std::byte* slot,
                       int place, float (&sums)[kHeads]) {
  const uint32_t* key = ElementsAt<uint32_t>(slot, 0) + place;
  int32_t integers[kHeads] = {};
  NSA_UNROLL_BY(4)
  for (int quad = 0; quad < (a.query.kv.head_dim_k + 3) / 4; ++quad) {
    const uint32_t x = key[quad << a.rows.rows_log2];
    NSA_UNROLL
    for (int h = 0; h < kHeads; ++h) {
      integers[h] = Dp4a(shared.far_q[quad * kHeads + h], x, integers[h]);
    }
  }
  NSA_UNROLL
  for (int h = 0; h < kHeads; ++h) {
    sums[h] = static_cast<float>(integers[h]) * shared.far_scale[h];
  }
}

/// Leaves one row's scores, for score_topk as well where it wants them.
template <int kHeads>
NSA_DEVICE void StoreScores(const SplitAttention& a, const Task& task, const Shared<kHeads>& shared,
                            int64_t split, int i, const float (&scores)[kHeads]) {
  NSA_UNROLL
  for (int h = 0; h < kHeads; ++h) shared.scores[h * kSplitRows + i] = scores[h];
  if (a.scores.data == nullptr) return;
  const int64_t row = a.is_batch ? task.index : task.row.row;
  const int64_t query = row * a.query.num_q_heads + task.first_head;
  float* kept = a.scores.data + query * a.scores.stride + split * kSplitRows + i;
  NSA_UNROLL
  for (int h = 0; h < kHeads; ++h) {
    if (h < task.num_heads) kept[h * a.scores.stride] = scores[h];
  }
}

/// A thread a row: its key against the queries of all heads. −∞ for rows that are not read.
template <typename T, int kHeads>
NSA_DEVICE void Score(const SplitAttention& a, const Task& task, const Shared<kHeads>& shared,
                      int64_t split) {
  const bool has_far_rows = HasFarRows<T>(a, task);
  for (int i = ThreadIndex(); i < kSplitRows; i += kThreads) {
    const Stretch& stretch = shared.StretchesOf(split)[i >> a.stretch_log2];
    const int place = stretch.first + (i & ((1 << a.stretch_log2) - 1));
    if (!stretch.Holds(place)) {
      NSA_UNROLL
      for (int h = 0; h < kHeads; ++h) shared.scores[h * kSplitRows + i] = -Infinity();
      continue;
    }
    float scores[kHeads] = {};
    if (has_far_rows &&
        (a.query.rope.rotary_dim == 0 || stretch.page_distance == a.max_page_distance)) {
      FarDot(a, shared, stretch.slot, place, scores);
    } else {
      Dot(a.query, shared.q, Key<T>(a.rows, stretch.slot, place), stretch.page_distance, scores);
    }
    float scale = 1, bias = 0;
    if constexpr (std::is_same_v<T, int8_t>) {
      scale = ElementsAt<float>(stretch.slot, a.rows.scale_offset)[place];
    }
    if (a.rows.bias_offset >= 0) {
      bias = ElementsAt<float>(stretch.slot, a.rows.bias_offset)[place];
    }
    NSA_UNROLL
    for (int h = 0; h < kHeads; ++h) scores[h] = scores[h] * scale + bias;
    StoreScores(a, task, shared, split, i, scores);
  }
}

/// Of the split before, weights and stretches may be read until all threads are here again: what
/// is written before the barrier is the other stretches.
template <typename T, int kHeads>
NSA_DEVICE void MakeScores(const SplitAttention& a, const Task& task, const Shared<kHeads>& shared,
                           int64_t split) {
  for (int i = ThreadIndex(); i < shared.num_stretches; i += kThreads) {
    shared.StretchesOf(split)[i] = StretchAt(a, task, split * shared.num_stretches + i);
  }
  SyncThreads();
  Score<T>(a, task, shared, split);
}

}  // namespace nsa::kernels::cuda

#endif  // NSA_KERNELS_CUDA_SPLIT_SCORES_H_
