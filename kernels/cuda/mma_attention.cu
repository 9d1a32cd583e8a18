#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "kernels/cuda/elements.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/mma_attention.h"
#include "kernels/cuda/reduce.h"
#include "kernels/cuda/rotate.h"
#include "kernels/cuda/softmax.h"
#include "kernels/cuda/split_parts.h"
#include "kernels/cuda/stretches.h"

namespace nsa::kernels::cuda {
namespace {

constexpr int kNumWarps = kThreads / kWarpSize;
constexpr int kTileHeads = 16;
constexpr int kTerms = 3;
constexpr int kMaxDims = 256;
/// Of a CTA on sm_80 (CUDA C++ Programming Guide, "Compute Capabilities"): the least of those that
/// we build for, so that all of them have the same bits.
constexpr int64_t kMaxSharedBytes = int64_t{163} * 1024;
constexpr int kSplitPages = kSplitRows / kPageSize;
static_assert(kPageSize == 16 * kNumWarps, "a warp scores 16 tokens of a page");

/// Rows in shared memory are longer by 16 bytes, so that eight of them, one below the other, lie in
/// different banks (where they hold a multiple of 32 bytes).
constexpr int Pitch(int columns) { return columns + 8; }

/// Weights are held times this; the most that a float16 can be is twice as much.
constexpr float kWeightScale = 32768;

/// Sizes of arrays in shared memory, in elements.
struct Sizes {
  int queries;  // of a tile's queries, or weights: [kTerms, kTileHeads, Pitch]
  int tile;     // of keys [head_dim_k, Pitch(64)], or of values [64, Pitch(head_dim_v)]
};
constexpr int QueryPitch(const PagedKv& kv) {
  return Pitch(kv.head_dim_k > kPageSize ? kv.head_dim_k : kPageSize);
}
constexpr Sizes SizesOf(const PagedKv& kv) {
  const int keys = kv.head_dim_k * Pitch(kPageSize), values = kPageSize * Pitch(kv.head_dim_v);
  return {kTerms * kTileHeads * QueryPitch(kv), keys > values ? keys : values};
}

/// A CTA's shared memory. Tiles of keys and values, and what they are multiplied by, take turns in
/// two places each.
template <typename T>
struct Shared {
  T* queries;          // [2, kTerms, kTileHeads, query_pitch]
  T* tiles;            // [2, tile_size]
  float* q;            // [num_heads, head_dim_k], turned by the query's own offset, and scaled
  float* unscale;      // [num_heads]: what scores are multiplied by
  float* scores;       // [num_heads, kSplitRows], then weights
  float* maximum;      // [num_heads]
  float* sum;          // [num_heads]
  Stretch* stretches;  // [2, kSplitPages], of even splits and of odd ones
  int query_pitch;
  int tile_size;

  NSA_DEVICE T* QueriesOf(int tile) const {
    return queries + tile % 2 * kTerms * kTileHeads * query_pitch;
  }
  NSA_DEVICE T* TileOf(int tile) const { return tiles + tile % 2 * tile_size; }
  NSA_DEVICE Stretch* StretchesOf(int64_t split) const {
    return stretches + (split % 2 == 0 ? 0 : kSplitPages);
  }
};

/// The power of two that brings `largest` to [2¹³, 2¹⁴), and its inverse; 1 where it is not finite.
/// So a float16 holds a query that was turned, and its third term.
struct QueryScale {
  float scale;
  float inverse;
};
NSA_DEVICE QueryScale QueryScaleOf(float largest) {
  constexpr int kBias = 127, kNotFinite = 255, kLargest = 253;
  const int exponent = static_cast<int>(FloatBits(largest) >> 23 & 0xFF);
  int scale = exponent == kNotFinite ? kBias : 2 * kBias + 13 - exponent;
  if (scale > kLargest) scale = kLargest;
  return {FloatOfBits(static_cast<uint32_t>(scale) << 23),
          FloatOfBits(static_cast<uint32_t>(2 * kBias - scale) << 23)};
}

/// A warp a head: queries turned by their own offset. A lane comes back to those pairs alone that
/// it wrote.
template <typename T>
NSA_DEVICE void LayOutQueries(const SplitAttention& a, const Task& task, const Shared<T>& shared) {
  const AttentionQuery& query = a.query;
  const int dims = query.kv.head_dim_k, half = query.rope.rotary_dim / 2;
  for (int head = WarpIndex(); head < task.num_heads; head += kNumWarps) {
    const float* from =
        query.q + task.row.row * query.q_stride + (task.first_head + head) * int64_t{dims};
    float* q = shared.q + head * dims;
    float largest = 0;
    for (int i = LaneIndex(); i < dims - half; i += kWarpSize) {
      Pair x = {0, from[i + half]};
      if (i < half) {
        x = RotateFine(query.rope, task.row.position % kPageSize, i, 1, {from[i], x.b});
        q[i] = x.a * query.scale;
        largest = MaxOrNan(Abs(q[i]), largest);
      }
      q[i + half] = x.b * query.scale;
      largest = MaxOrNan(Abs(q[i + half]), largest);
    }
    const QueryScale scale = QueryScaleOf(WarpMaxOrNan(largest));
    for (int i = LaneIndex(); i < dims - half; i += kWarpSize) {
      if (i < half) q[i] *= scale.scale;
      q[i + half] *= scale.scale;
    }
    if (LaneIndex() == 0) shared.unscale[head] = scale.inverse;
  }
  // Rows behind the last head stay zero; others are overwritten.
  for (int i = ThreadIndex(); i < 2 * kTerms * kTileHeads * shared.query_pitch; i += kThreads) {
    shared.queries[i] = FromFloat<T>(0);
  }
}

/// x as a sum of 16-bit floats, `step` elements apart.
template <typename T>
NSA_DEVICE void StoreTerms(float x, int step, T* target) {
  NSA_UNROLL
  for (int term = 0; term < kTerms; ++term) {
    const T rounded = FromFloat<T>(x);
    target[term * step] = rounded;
    x -= ToFloat(rounded);
  }
}

/// A warp a head: queries turned by the distance of a page.
template <typename T>
NSA_DEVICE void LayOutTurned(const SplitAttention& a, const Task& task, const Shared<T>& shared,
                             int64_t distance, T* target) {
  const int dims = a.query.kv.head_dim_k, half = a.query.rope.rotary_dim / 2;
  const int step = kTileHeads * shared.query_pitch;
  for (int head = WarpIndex(); head < task.num_heads; head += kNumWarps) {
    const float* q = shared.q + head * dims;
    T* row = target + head * shared.query_pitch;
    for (int i = LaneIndex(); i < dims - half; i += kWarpSize) {
      float x = q[i + half];
      if (i < half) {
        const Pair turned = RotateCoarse(a.query.rope, distance, i, 1, {q[i], x});
        StoreTerms(turned.a, step, row + i);
        x = turned.b;
      }
      StoreTerms(x, step, row + i + half);
    }
  }
}

/// A warp a head: the weights of a page's tokens. A lane reads those alone that it wrote in Weigh.
template <typename T>
NSA_DEVICE void LayOutWeights(const Task& task, const Shared<T>& shared, int page, T* target) {
  const int step = kTileHeads * shared.query_pitch;
  for (int head = WarpIndex(); head < task.num_heads; head += kNumWarps) {
    const float* weights = shared.scores + head * kSplitRows + page * kPageSize;
    for (int i = LaneIndex(); i < kPageSize; i += kWarpSize) {
      StoreTerms(weights[i] * kWeightScale, step, target + head * shared.query_pitch + i);
    }
  }
}

/// Starts the copies of the tile: pages' keys, then their values, zeros for tokens that are not
/// read.
template <typename T>
NSA_DEVICE void StartTile(const SplitAttention& a, const Shared<T>& shared,
                          const Stretch* stretches, int tile) {
  constexpr int kPerCopy = 16 / sizeof(T);
  if (tile >= 2 * kSplitPages) return;
  const Stretch& stretch = stretches[tile % kSplitPages];
  if (stretch.begin >= stretch.end) return;
  T* target = shared.TileOf(tile);
  if (tile < kSplitPages) {
    const T* keys = ElementsAt<T>(stretch.slot, 0);
    constexpr int kCopies = kPageSize / kPerCopy;  // of a dimension
    for (int i = ThreadIndex(); i < a.query.kv.head_dim_k * kCopies; i += kThreads) {
      CopyAsync(target + i / kCopies * Pitch(kPageSize) + i % kCopies * kPerCopy,
                keys + i * kPerCopy);
    }
  } else {
    const int dims = a.query.kv.head_dim_v, copies = dims / kPerCopy;  // of a token
    const T* values = ElementsAt<T>(stretch.slot, a.rows.v_offset);
    for (int i = ThreadIndex(); i < kPageSize * copies; i += kThreads) {
      const Split place = SplitIndex(i, copies);
      const int token = static_cast<int>(place.quotient);
      CopyAsync(target + token * Pitch(dims) + place.remainder * kPerCopy, values + i * kPerCopy,
                stretch.Holds(token));
    }
  }
  CommitCopies();
}

/// The 16 × 16 block of `matrix`, row-major with `pitch`, that begins at (row, column): what a lane
/// brings to ldmatrix.x4. Plain, it is an A of Mma; transposed, the B of two.
template <typename T>
NSA_DEVICE const T* BlockRow(const T* matrix, int pitch, int row, int column) {
  return matrix + (row + LaneIndex() % 16) * pitch + column + LaneIndex() / 16 * 8;
}

/// sums += terms · block, where block is [16, 16].
template <typename T>
NSA_DEVICE void MultiplyBlock(const uint32_t (&terms)[kTerms][4], const T* block_row,
                              float (&sums)[2][4]) {
  uint32_t block[4];
  LoadMatrix<true>(block, block_row);
  const uint32_t left[2] = {block[0], block[1]}, right[2] = {block[2], block[3]};
  NSA_UNROLL
  for (int term = kTerms - 1; term >= 0; --term) {
    Mma(sums[0], terms[term], left, T{});
    Mma(sums[1], terms[term], right, T{});
  }
}
template <typename T>
NSA_DEVICE void LoadTerms(const T* queries, int pitch, int column, uint32_t (&terms)[kTerms][4]) {
  NSA_UNROLL
  for (int term = 0; term < kTerms; ++term) {
    LoadMatrix<false>(terms[term], BlockRow(queries, pitch, term * kTileHeads, column));
  }
}

/// Calls body(head, column, sum) for a lane's elements of sums over 16 columns.
template <typename Body>
NSA_DEVICE void ForEachSum(float (&sums)[2][4], int num_heads, Body&& body) {
  NSA_UNROLL
  for (int n = 0; n < 2; ++n) {
    NSA_UNROLL
    for (int i = 0; i < 4; ++i) {
      const int head = LaneIndex() / 4 + i / 2 * 8;
      if (head < num_heads) body(head, 8 * n + LaneIndex() % 4 * 2 + i % 2, sums[n][i]);
    }
  }
}

/// A warp 16 tokens: their keys against the queries of all heads. −∞ for tokens that are not read.
template <typename T>
NSA_DEVICE void Score(const SplitAttention& a, const Task& task, const Shared<T>& shared,
                      const Stretch& stretch, int tile) {
  float sums[2][4] = {};
  const int first = 16 * WarpIndex();
  for (int k = 0; stretch.begin < stretch.end && k < a.query.kv.head_dim_k; k += 16) {
    uint32_t terms[kTerms][4];
    LoadTerms(shared.QueriesOf(tile), shared.query_pitch, k, terms);
    MultiplyBlock(terms, BlockRow(shared.TileOf(tile), Pitch(kPageSize), k, first), sums);
  }
  ForEachSum(sums, task.num_heads, [&](int head, int column, float sum) {
    const int token = first + column;
    shared.scores[head * kSplitRows + tile * kPageSize + token] =
        stretch.Holds(token) ? sum * shared.unscale[head] : -Infinity();
  });
}

/// A warp every fourth of the 16 dimensions: the page's values times the weights of all heads.
template <typename T, int kPairs>
NSA_DEVICE void AddValues(const SplitAttention& a, const Shared<T>& shared, int tile,
                          float (&out)[kPairs][2][4]) {
  const int dims = a.query.kv.head_dim_v;
  for (int k = 0; k < kPageSize; k += 16) {
    uint32_t terms[kTerms][4];
    LoadTerms(shared.QueriesOf(tile), shared.query_pitch, k, terms);
    NSA_UNROLL
    for (int j = 0; j < kPairs; ++j) {
      const int dim = 16 * (WarpIndex() + j * kNumWarps);
      if (dim >= dims) continue;
      MultiplyBlock(terms, BlockRow(shared.TileOf(tile), Pitch(dims), k, dim), out[j]);
    }
  }
}

/// One split: shared.maximum and shared.sum, and in `out` Σ weight · value times kWeightScale. A
/// tile's copies run while the tile before is multiplied.
template <typename T, int kPairs>
NSA_DEVICE void MakeSplit(const SplitAttention& a, const Task& task, const Shared<T>& shared,
                          int64_t split, float (&out)[kPairs][2][4]) {
  Stretch* stretches = shared.StretchesOf(split);
  if (ThreadIndex() < kSplitPages) {
    stretches[ThreadIndex()] = StretchAt(a, task, split * kSplitPages + ThreadIndex());
  }
  NSA_UNROLL
  for (int j = 0; j < kPairs; ++j) {
    NSA_UNROLL
    for (int i = 0; i < 8; ++i) out[j][i / 4][i % 4] = 0;
  }
  SyncThreads();
  StartTile(a, shared, stretches, 0);
  for (int tile = 0; tile < 2 * kSplitPages; ++tile) {
    const int page = tile % kSplitPages;
    const Stretch& stretch = stretches[page];
    const bool is_read = stretch.begin < stretch.end, has_keys = tile < kSplitPages;
    if (tile == kSplitPages) {
      SyncThreads();
      Weigh(shared.scores, shared.maximum, shared.sum, task.num_heads);
    }
    if (is_read && has_keys) {
      LayOutTurned(a, task, shared, stretch.page_distance, shared.QueriesOf(tile));
    } else if (is_read) {
      LayOutWeights(task, shared, page, shared.QueriesOf(tile));
    }
    WaitCopies<0>();
    SyncThreads();
    StartTile(a, shared, stretches, tile + 1);
    if (has_keys) {
      Score(a, task, shared, stretch, tile);
    } else if (is_read) {
      AddValues(a, shared, tile, out);
    }
  }
}

/// Calls body(head, dim, sum) for a lane's elements of `out`.
template <int kPairs, typename Body>
NSA_DEVICE void ForEachOut(const SplitAttention& a, const Task& task, float (&out)[kPairs][2][4],
                           Body&& body) {
  NSA_UNROLL
  for (int j = 0; j < kPairs; ++j) {
    const int dim = 16 * (WarpIndex() + j * kNumWarps);
    if (dim >= a.query.kv.head_dim_v) continue;
    ForEachSum(out[j], task.num_heads,
               [&](int head, int column, float& sum) { body(head, dim + column, sum); });
  }
}

/// Leaves the `number`-th split of the row in the workspace.
template <typename T, int kPairs>
NSA_DEVICE void StorePart(const SplitAttention& a, const Task& task, const Shared<T>& shared,
                          int64_t number, float (&out)[kPairs][2][4]) {
  if (ThreadIndex() < task.num_heads) {
    float* part = PartOf(a, task.index, task.first_head + ThreadIndex(), number);
    part[0] = shared.maximum[ThreadIndex()];
    part[1] = shared.sum[ThreadIndex()];
  }
  ForEachOut(a, task, out, [&](int head, int dim, float sum) {
    PartOf(a, task.index, task.first_head + head, number)[2 + dim] = sum * (1 / kWeightScale);
  });
}

/// All splits of the row, joined into its result in registers.
template <typename T, int kPairs>
NSA_DEVICE void AttendWhole(const SplitAttention& a, const Task& task, const Shared<T>& shared) {
  float out[kPairs][2][4], joined[kPairs][2][4] = {};
  Softmax so_far[2];  // of the two heads that a lane has
  const Extent splits = SplitsOf(task);
  for (int64_t split = splits.begin; split < splits.end; ++split) {
    MakeSplit(a, task, shared, split, out);
    NSA_UNROLL
    for (int half = 0; half < 2; ++half) {
      const int head = LaneIndex() / 4 + 8 * half;
      if (head >= task.num_heads) continue;
      const JoinFactors f = Join(so_far[half], shared.maximum[head], shared.sum[head]);
      NSA_UNROLL
      for (int j = 0; j < kPairs; ++j) {
        NSA_UNROLL
        for (int i = 0; i < 4; ++i) {
          float& sum = joined[j][i / 2][2 * half + i % 2];
          const float added = out[j][i / 2][2 * half + i % 2] * (1 / kWeightScale);
          sum = sum * f.before + added * f.added;
        }
      }
    }
  }
  ForEachOut(a, task, joined, [&](int head, int dim, float sum) {
    const int64_t index = ResultIndex(a, task, task.first_head + head);
    a.result.out[index * a.query.kv.head_dim_v + dim] =
        Quotient(sum, head < 8 ? so_far[0] : so_far[1]);
  });
  if (a.result.lse == nullptr || WarpIndex() > 0 || LaneIndex() % 4 != 0) return;
  for (int head = LaneIndex() / 4; head < task.num_heads; head += 8) {
    a.result.lse[ResultIndex(a, task, task.first_head + head)] =
        LogSumExp(head < 8 ? so_far[0] : so_far[1]);
  }
}

/// CTA (i, s): row, KV head and 16 of its group's heads by i; the s-th split that the row reads, or
/// all of them. `kPairs`: 16 dimensions of values that a warp has, at most.
template <typename T, int kPairs>
NSA_KERNEL(kThreads)
MmaAttendKernel(NSA_ARGS SplitAttention a) {
  const PagedKv& kv = a.query.kv;
  const Task task = TaskOfCta(a, kTileHeads);
  const Sizes sizes = SizesOf(kv);
  const int group = a.query.num_q_heads / kv.num_kv_heads;
  const int heads = group < kTileHeads ? group : kTileHeads;
  SharedArena arena;
  const Shared<T> shared = {arena.Take<T>(2 * sizes.queries),
                            arena.Take<T>(2 * sizes.tile),
                            arena.Take<float>(heads * kv.head_dim_k),
                            arena.Take<float>(heads),
                            arena.Take<float>(heads * kSplitRows),
                            arena.Take<float>(heads),
                            arena.Take<float>(heads),
                            arena.Take<Stretch>(2 * kSplitPages),
                            QueryPitch(kv),
                            sizes.tile};
  if (!a.cta_per_split) {
    LayOutQueries(a, task, shared);
    AttendWhole<T, kPairs>(a, task, shared);
    return;
  }
  const Extent splits = SplitsOf(task);
  if (splits.begin + CtaY() >= splits.end) return;
  LayOutQueries(a, task, shared);
  float out[kPairs][2][4];
  MakeSplit(a, task, shared, splits.begin + CtaY(), out);
  StorePart(a, task, shared, CtaY(), out);
}

int64_t SharedBytes(const SplitAttention& a) {
  const PagedKv& kv = a.query.kv;
  const Sizes sizes = SizesOf(kv);
  const int64_t heads = std::min(a.query.num_q_heads / kv.num_kv_heads, kTileHeads);
  int64_t bytes = 2 * kSplitPages * static_cast<int64_t>(sizeof(Stretch));
  for (const int64_t elements : {2 * sizes.queries, 2 * sizes.tile}) {
    bytes += CeilDiv(elements * 2, 16) * 16;
  }
  for (const int64_t floats : {heads * kv.head_dim_k, heads, heads * kSplitRows, heads, heads}) {
    bytes += CeilDiv(floats * 4, 16) * 16;
  }
  return bytes;
}

template <typename T, int kPairs>
void LaunchPairs(Stream& stream, const char* name, const SplitAttention& a, int64_t num_rows) {
  const int num_kv_heads = a.query.kv.num_kv_heads;
  Launch(
      stream,
      {.name = name,
       .grid_x = num_rows * num_kv_heads * Passes(a.query.num_q_heads / num_kv_heads, kTileHeads),
       .grid_y = a.cta_per_split ? a.num_splits : 1,
       .num_threads = kThreads,
       .shared_bytes = SharedBytes(a)},
      MmaAttendKernel<T, kPairs>, a);
}

template <typename T>
void LaunchType(Stream& stream, const char* name, const SplitAttention& a, int64_t num_rows) {
  constexpr int kDimsOfPair = 16 * kNumWarps;
  const int dims = a.query.kv.head_dim_v;
  if (dims <= kDimsOfPair) return LaunchPairs<T, 1>(stream, name, a, num_rows);
  if (dims <= 2 * kDimsOfPair) return LaunchPairs<T, 2>(stream, name, a, num_rows);
  LaunchPairs<T, 4>(stream, name, a, num_rows);
}

}  // namespace

bool TakesTensorCores(const SplitAttention& a) {
  const PagedKv& kv = a.query.kv;
  if (!a.uses_tensor_cores || a.reads == Reads::kCompressed || a.result.out == nullptr)
    return false;
  if (1 << a.stretch_log2 != kPageSize) return false;
  if (kv.dtype != DType::kBF16 && kv.dtype != DType::kF16) return false;
  for (const int dims : {kv.head_dim_k, kv.head_dim_v}) {
    if (dims % 16 != 0 || dims > kMaxDims) return false;
  }
  // cp.async moves 16 bytes from an address that is a multiple of 16.
  const auto base = static_cast<int64_t>(reinterpret_cast<uintptr_t>(kv.slots));
  for (const int64_t bytes : {base, kv.page_stride, kv.head_stride, kv.v_offset}) {
    if (bytes % 16 != 0) return false;
  }
  return SharedBytes(a) <= kMaxSharedBytes;
}

void LaunchMmaAttention(Stream& stream, const char* name, const SplitAttention& attention,
                        int64_t num_rows) {
  if (attention.query.kv.dtype == DType::kBF16) {
    return LaunchType<Bf16>(stream, name, attention, num_rows);
  }
  LaunchType<F16>(stream, name, attention, num_rows);
}

}  // namespace nsa::kernels::cuda
