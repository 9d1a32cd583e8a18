#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "kernels/cuda/elements.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/mma_attention.h"
#include "kernels/cuda/mma_blocks.h"
#include "kernels/cuda/mma_copies.h"
#include "kernels/cuda/mma_terms.h"
#include "kernels/cuda/mma_tile.h"
#include "kernels/cuda/mma_walk.h"
#include "kernels/cuda/reduce.h"
#include "kernels/cuda/rotate.h"
#include "kernels/cuda/softmax.h"
#include "kernels/cuda/split_parts.h"
#include "kernels/cuda/stretches.h"

namespace nsa::kernels::cuda {
namespace {

constexpr int kMaxDims = 256;
/// A warp a line: queries turned by their own offset. A lane comes back to those pairs alone that
/// it wrote.
template <typename T>
NSA_DEVICE void LayOutQueries(const SplitAttention& a, const RowTile& tile,
                              const TileShared<T>& shared) {
  const AttentionQuery& query = a.query;
  const SegmentRow& first = tile.first.row;
  const int dims = query.kv.head_dim_k, half = query.rope.rotary_dim / 2;
  for (int line = WarpIndex(); line < tile.num_lines; line += NumThreads() / kWarpSize) {
    const int row = shared.row_of_line[line];
    const int64_t head = tile.first.first_head + line - row * tile.first.num_heads;
    const float* from = query.q + (first.row + row) * query.q_stride + head * dims;
    float* q = shared.q + line * dims;
    float largest = 0;
    for (int i = LaneIndex(); i < dims - half; i += kWarpSize) {
      Pair x = {0, from[i + half]};
      if (i < half) {
        x = RotateFine(query.rope, (first.position + row) % kPageSize, i, 1, {from[i], x.b});
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
    if (LaneIndex() == 0) shared.unscale[line] = scale.inverse;
  }
  // Those behind the last line stay zero; others are overwritten.
  const int num_elements = shared.buffers * shared.num_terms * shared.term_size;
  for (int i = ThreadIndex(); i < num_elements; i += NumThreads()) {
    shared.terms[i] = FromFloat<T>(0);
  }
}

/// A warp a line: queries turned by the distance of the page. Of a line that does not read it,
/// nobody reads the products.
template <typename T>
NSA_DEVICE void LayOutTurned(const SplitAttention& a, const RowTile& tile,
                             const TileShared<T>& shared, const TilePage& page, T* target) {
  const int dims = a.query.kv.head_dim_k, half = a.query.rope.rotary_dim / 2;
  const int count = shared.num_terms, step = shared.term_size;
  for (int line = WarpIndex(); line < tile.num_lines; line += NumThreads() / kWarpSize) {
    const Stretch stretch = StretchOfRow(a, shared, page, shared.row_of_line[line]);
    if (stretch.begin >= stretch.end) continue;
    const float* q = shared.q + line * dims;
    T* terms = target + line * shared.query_pitch;
    for (int i = LaneIndex(); i < dims - half; i += kWarpSize) {
      float x = q[i + half];
      if (i < half) {
        const Pair turned = RotateCoarse(a.query.rope, stretch.page_distance, i, 1, {q[i], x});
        StoreTerms<kMaxTerms>(turned.a, count, step, terms + i);
        x = turned.b;
      }
      StoreTerms<kMaxTerms>(x, count, step, terms + i + half);
    }
  }
}

/// A warp a line: the weights of the page's tokens, 0 where the line does not read it. A lane reads
/// those alone that it wrote in Weigh.
template <typename T>
NSA_DEVICE void LayOutWeights(const SplitAttention& a, const RowTile& tile,
                              const TileShared<T>& shared, const TilePage& page, T* target) {
  const int count = shared.num_terms, step = shared.term_size;
  for (int line = WarpIndex(); line < tile.num_lines; line += NumThreads() / kWarpSize) {
    const int place = PlaceOf(a, page, shared.row_of_line[line]);
    const bool is_read = place != kNoPlace;
    const float* weights = shared.scores + line * kSplitRows + (is_read ? place : 0) * kPageSize;
    for (int i = LaneIndex(); i < kPageSize; i += kWarpSize) {
      const float weight = is_read ? weights[i] * kWeightScale : 0.0f;
      StoreTerms<kMaxTerms>(weight, count, step, target + line * shared.query_pitch + i);
    }
  }
}

/// Calls body(line, column, sum) for a lane's elements of sums over 16 columns, of the 16 lines
/// that its warp works on.
template <typename Body>
NSA_DEVICE void ForEachSum(float (&sums)[2][4], int num_lines, Body&& body) {
  NSA_UNROLL
  for (int n = 0; n < 2; ++n) {
    NSA_UNROLL
    for (int i = 0; i < 4; ++i) {
      const int line = FirstLine() + LaneIndex() / 4 + i / 2 * 8;
      if (line < num_lines) body(line, 8 * n + LaneIndex() % 4 * 2 + i % 2, sums[n][i]);
    }
  }
}

/// A warp 16 tokens: their keys against the queries of 16 lines. −∞ for tokens that a line does not
/// read.
template <typename T>
NSA_DEVICE void Score(const SplitAttention& a, const RowTile& tile, const TileShared<T>& shared,
                      const TilePage& page, int step) {
  float sums[2][4] = {};
  const int first = 16 * (WarpIndex() % kLineWarps);
  const T* queries = shared.TermsOf(step) + FirstLine() * shared.query_pitch;
  for (int k = 0; k < a.query.kv.head_dim_k; k += 16) {
    Terms<kMaxTerms> terms(shared.num_terms);
    uint32_t block[4];
    LoadTerms(queries, shared.term_size, shared.query_pitch, k, terms);
    LoadMatrix<true>(block, BlockRow(shared.TileOf(step), Pitch(kPageSize), k, first));
    MultiplyBlock<T>(terms, block, sums);
  }
  NSA_UNROLL
  for (int half = 0; half < 2; ++half) {
    const int line = FirstLine() + LaneIndex() / 4 + half * 8;
    if (line >= tile.num_lines) continue;
    const int row = shared.row_of_line[line], place = PlaceOf(a, page, row);
    if (place == kNoPlace) continue;
    const Stretch stretch = shared.stretches[row * kSplitPages + place];
    if (stretch.begin >= stretch.end) continue;
    float* scores = shared.scores + line * kSplitRows + place * kPageSize;
    NSA_UNROLL
    for (int i = 0; i < 4; ++i) {
      const int token = first + i / 2 * 8 + LaneIndex() % 4 * 2 + i % 2;
      scores[token] =
          stretch.Holds(token) ? sums[i / 2][2 * half + i % 2] * shared.unscale[line] : -Infinity();
    }
  }
}

/// A warp every fourth of the 16 dimensions: the page's values times the weights of 16 lines.
template <typename T, int kPairs>
NSA_DEVICE void AddValues(const SplitAttention& a, const RowTile& tile, const TileShared<T>& shared,
                          const TilePage& page, int step, float (&out)[kPairs][2][4]) {
  const int dims = a.query.kv.head_dim_v;
  const T* weights = shared.TermsOf(step) + FirstLine() * shared.query_pitch;
  for (int k = 0; k < kPageSize; k += 16) {
    Terms<kMaxTerms> terms(shared.num_terms);
    LoadTerms(weights, shared.term_size, shared.query_pitch, k, terms);
    NSA_UNROLL
    for (int j = 0; j < kPairs; ++j) {
      const int dim = 16 * (WarpIndex() % kLineWarps + j * kLineWarps);
      if (dim >= dims) continue;
      uint32_t block[4];
      LoadMatrix<true>(block, BlockRow(shared.TileOf(step), Pitch(dims), k, dim));
      if (page.is_mixed && Ballot(HasNonFinite<T>(block)) != 0) {
        MultiplyByRows(a, tile, shared, page, k, terms, block, out[j]);
      } else {
        MultiplyBlock<T>(terms, block, out[j]);
      }
    }
  }
}

/// One split: shared.maximum and shared.sum, and in `out` Σ weight · value times kWeightScale. A
/// page's copies run while those before are multiplied.
template <typename C, typename T, int kPairs>
NSA_DEVICE void MakeSplit(const SplitAttention& a, const RowTile& tile, const TileShared<T>& shared,
                          int64_t split, float (&out)[kPairs][2][4]) {
  NSA_UNROLL
  for (int j = 0; j < kPairs; ++j) {
    NSA_UNROLL
    for (int i = 0; i < 8; ++i) out[j][i / 4][i % 4] = 0;
  }
  LayOutWalk(a, tile, shared, split);
  StartCopies<C>(a, shared, 0);
  const int num_pages = *shared.num_pages;
  const bool has_lines = FirstLine() < tile.num_lines;
  for (int step = 0; step < 2 * num_pages; ++step) {
    const bool has_keys = step < num_pages;
    const TilePage& page = shared.pages[has_keys ? step : step - num_pages];
    const bool is_read = page.slot != nullptr;
    if (shared.buffers == 1 || step == num_pages) SyncThreads();
    if (step == num_pages) {
      Weigh(shared.scores, shared.maximum, shared.sum, tile.num_lines, NumThreads());
    }
    if (is_read && has_keys) {
      LayOutTurned(a, tile, shared, page, shared.TermsOf(step));
    } else if (is_read) {
      LayOutWeights(a, tile, shared, page, shared.TermsOf(step));
    }
    WaitCopies<0>();
    SyncThreads();
    StartCopies<C>(a, shared, step + 1);
    if constexpr (!std::is_same_v<C, T>) {
      if (is_read) Convert<C>(a, shared, step);
      SyncThreads();
    }
    if (!is_read || !has_lines) continue;
    if (has_keys) {
      Score(a, tile, shared, page, step);
    } else {
      AddValues(a, tile, shared, page, step, out);
    }
  }
}

/// Calls body(line, dim, sum) for a lane's elements of `out`.
template <int kPairs, typename Body>
NSA_DEVICE void ForEachOut(const SplitAttention& a, const RowTile& tile, float (&out)[kPairs][2][4],
                           Body&& body) {
  NSA_UNROLL
  for (int j = 0; j < kPairs; ++j) {
    const int dim = 16 * (WarpIndex() % kLineWarps + j * kLineWarps);
    if (dim >= a.query.kv.head_dim_v) continue;
    ForEachSum(out[j], tile.num_lines,
               [&](int line, int column, float& sum) { body(line, dim + column, sum); });
  }
}

/// Leaves the split's parts of those rows that have it in the workspace.
template <typename T, int kPairs>
NSA_DEVICE void StoreParts(const SplitAttention& a, const RowTile& tile,
                           const TileShared<T>& shared, int64_t split, float (&out)[kPairs][2][4]) {
  const auto part_of = [&](int line) -> float* {
    const int row = shared.row_of_line[line];
    const Extent& splits = shared.splits[row];
    if (split < splits.begin || split >= splits.end) return nullptr;
    const int64_t head = tile.first.first_head + line - row * tile.first.num_heads;
    return PartOf(a, tile.first.index + row, head, split - splits.begin);
  };
  if (const int line = ThreadIndex(); line < tile.num_lines) {
    if (float* part = part_of(line); part != nullptr) {
      part[0] = shared.maximum[line];
      part[1] = shared.sum[line];
    }
  }
  ForEachOut(a, tile, out, [&](int line, int dim, float sum) {
    if (float* part = part_of(line); part != nullptr) part[2 + dim] = Unscaled(sum);
  });
}

/// Joins the split into those lines whose rows have it.
template <typename T, int kPairs>
NSA_DEVICE void JoinSplit(const RowTile& tile, const TileShared<T>& shared, int64_t split,
                          const float (&out)[kPairs][2][4], Softmax (&so_far)[2],
                          float (&joined)[kPairs][2][4]) {
  NSA_UNROLL
  for (int half = 0; half < 2; ++half) {
    const int line = FirstLine() + LaneIndex() / 4 + 8 * half;
    if (line >= tile.num_lines) continue;
    const Extent& splits = shared.splits[shared.row_of_line[line]];
    if (split < splits.begin || split >= splits.end) continue;
    const JoinFactors f = Join(so_far[half], shared.maximum[line], shared.sum[line]);
    NSA_UNROLL
    for (int j = 0; j < kPairs; ++j) {
      NSA_UNROLL
      for (int i = 0; i < 4; ++i) {
        float& sum = joined[j][i / 2][2 * half + i % 2];
        sum = sum * f.before + Unscaled(out[j][i / 2][2 * half + i % 2]) * f.added;
      }
    }
  }
}

/// All splits of the rows, joined into their results in registers.
template <typename C, typename T, int kPairs>
NSA_DEVICE void AttendWhole(const SplitAttention& a, const RowTile& tile,
                            const TileShared<T>& shared) {
  float out[kPairs][2][4], joined[kPairs][2][4] = {};
  Softmax so_far[2];  // of the two lines that a lane has
  const Extent splits = SplitsOfTile(tile, shared);
  for (int64_t split = splits.begin; split < splits.end; ++split) {
    MakeSplit<C>(a, tile, shared.ForSplit(split, a.rows_per_tile), split, out);
    JoinSplit(tile, shared, split, out, so_far, joined);
  }
  const auto result_of = [&](int line) {
    const int row = shared.row_of_line[line];
    const int64_t head = tile.first.first_head + line - row * tile.first.num_heads;
    return (tile.first.row.row + row) * a.query.num_q_heads + head;
  };
  ForEachOut(a, tile, joined, [&](int line, int dim, float sum) {
    a.result.out[result_of(line) * a.query.kv.head_dim_v + dim] =
        Quotient(sum, line % kMmaLines < 8 ? so_far[0] : so_far[1]);
  });
  if (a.result.lse == nullptr || WarpIndex() % kLineWarps > 0 || LaneIndex() % 4 != 0) return;
  NSA_UNROLL
  for (int half = 0; half < 2; ++half) {
    const int line = FirstLine() + LaneIndex() / 4 + 8 * half;
    if (line < tile.num_lines) a.result.lse[result_of(line)] = LogSumExp(so_far[half]);
  }
}

/// CTA (i, s): a tile of rows, a KV head and heads of its group by i; the s-th split that the rows
/// read, or all of them. `kPairs`: 16 dimensions of values that a warp has, at most.
template <typename C, int kPairs, int kMmaTiles>
NSA_KERNEL(kThreads* kMmaTiles)
MmaAttendKernel(NSA_ARGS SplitAttention a) {
  using T = MmaType<C>;
  const RowTile tile = RowTileOfCta(a, kMmaTiles);
  if (tile.num_rows == 0) return;
  const TileShared<T> shared = TakeTileShared<T>(a, kMmaTiles);
  LayOutSplits(a, tile, shared);
  if (!a.cta_per_split) {
    LayOutQueries(a, tile, shared);
    AttendWhole<C, T, kPairs>(a, tile, shared);
    return;
  }
  const Extent splits = SplitsOfTile(tile, shared);
  if (splits.begin + CtaY() >= splits.end) return;
  LayOutQueries(a, tile, shared);
  float out[kPairs][2][4];
  MakeSplit<C>(a, tile, shared, splits.begin + CtaY(), out);
  StoreParts(a, tile, shared, splits.begin + CtaY(), out);
}

/// How many lines a CTA takes.
struct TileShape {
  int num_mma_tiles;
  int rows;
};

/// As many rows as lines and shared memory have room for; twice the lines where that is more rows.
/// The rows of a selection have pages of their own, of which a walk over a few rows' union is never
/// longer than their walks one by one; with more lines it would be, for each of them.
TileShape TileShapeOf(const SplitAttention& a) {
  TileShape best = {1, 1};
  if (a.one_row_each) return best;
  for (const int tiles : {1, kMaxMmaTiles}) {
    if (tiles > 1 && a.reads == Reads::kSelection) continue;
    int rows = kMmaLines * tiles / HeadsOfTile(a, tiles);
    while (rows > 1 && SharedBytesOfTile(SizesOfTile(a, tiles, rows)) > kMaxSharedBytes) --rows;
    if (rows > best.rows) best = {tiles, rows};
  }
  return best;
}

template <typename C, int kPairs, int kMmaTiles>
void LaunchTiles(Stream& stream, const char* name, const SplitAttention& a) {
  const int rows = a.rows_per_tile;
  // The rows' windows may begin in two splits.
  const int64_t splits = a.num_splits + (rows > 1 && a.window_size >= 0 ? 1 : 0);
  Launch(stream,
         {.name = name,
          .grid_x = NumTileCtas(a, kMmaTiles),
          .grid_y = a.cta_per_split ? splits : 1,
          .num_threads = kThreads * kMmaTiles,
          .shared_bytes = SharedBytesOfTile(SizesOfTile(a, kMmaTiles, rows))},
         MmaAttendKernel<C, kPairs, kMmaTiles>, a);
}

template <typename C, int kPairs>
void LaunchPairs(Stream& stream, const char* name, SplitAttention a) {
  const TileShape shape = TileShapeOf(a);
  a.rows_per_tile = shape.rows;
  if (shape.num_mma_tiles == 1) return LaunchTiles<C, kPairs, 1>(stream, name, a);
  LaunchTiles<C, kPairs, kMaxMmaTiles>(stream, name, a);
}

template <typename C>
void LaunchType(Stream& stream, const char* name, const SplitAttention& a) {
  constexpr int kDimsOfPair = 16 * kLineWarps;
  const int dims = a.query.kv.head_dim_v;
  if (dims <= kDimsOfPair) return LaunchPairs<C, 1>(stream, name, a);
  if (dims <= 2 * kDimsOfPair) return LaunchPairs<C, 2>(stream, name, a);
  LaunchPairs<C, 4>(stream, name, a);
}

}  // namespace

bool TakesTensorCores(const SplitAttention& a) {
  const PagedKv& kv = a.query.kv;
  if (!a.uses_tensor_cores || a.reads == Reads::kCompressed || a.result.out == nullptr)
    return false;
  if (1 << a.stretch_log2 != kPageSize) return false;
  if (kv.dtype == DType::kF32 || kv.dtype == DType::kInt8) return false;
  for (const int dims : {kv.head_dim_k, kv.head_dim_v}) {
    if (dims % 16 != 0 || dims > kMaxDims) return false;
  }
  if (!CanCopy16Bytes(kv.slots, {kv.page_stride, kv.head_stride, kv.v_offset})) return false;
  return SharedBytesOfTile(SizesOfTile(a, 1, 1)) <= kMaxSharedBytes;
}

void LaunchMmaAttention(Stream& stream, const char* name, const SplitAttention& attention) {
  if (attention.query.kv.dtype == DType::kBF16) {
    return LaunchType<Bf16>(stream, name, attention);
  }
  if (attention.query.kv.dtype == DType::kF8E4M3) {
    return LaunchType<F8E4M3>(stream, name, attention);
  }
  LaunchType<F16>(stream, name, attention);
}

}  // namespace nsa::kernels::cuda
