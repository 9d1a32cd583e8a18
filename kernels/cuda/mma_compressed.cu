#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "kernels/cuda/launch.h"
#include "kernels/cuda/mma_compressed.h"
#include "kernels/cuda/mma_compressed_copies.h"
#include "kernels/cuda/mma_compressed_scores.h"
#include "kernels/cuda/mma_compressed_tile.h"
#include "kernels/cuda/mma_compressed_values.h"
#include "kernels/cuda/mma_terms.h"
#include "kernels/cuda/softmax.h"
#include "kernels/cuda/split_parts.h"

namespace nsa::kernels::cuda {
namespace {

constexpr int kMaxDimsK = 256, kMaxDimsV = 128;

template <typename S>
NSA_DEVICE CompressedLine LaneLineAt(const SplitAttention& a, const RowTile& tile,
                                     const RowTileShared<typename S::T>& shared, int half) {
  const int line = WarpIndex() / S::kSharers * kMmaLines + LaneIndex() / 4 + 8 * half;
  if (line >= tile.num_lines) return {false, line, 0, 0, 0, INT32_MAX};
  const auto row = static_cast<int>(SplitIndex(line, tile.first.num_heads).quotient);
  const Extent& extent = shared.extents[row];
  return {true,
          line,
          row,
          static_cast<int>(extent.begin),
          static_cast<int>(extent.end),
          LastFarPage(a, tile, row)};
}
NSA_DEVICE int64_t HeadOf(const RowTile& tile, const CompressedLine& line) {
  return tile.first.first_head + line.line - line.row * tile.first.num_heads;
}

/// Where the results of a line stand, and its scores.
NSA_DEVICE int64_t ResultOf(const SplitAttention& a, const RowTile& tile,
                            const CompressedLine& line) {
  const int64_t row = (a.is_batch ? tile.first.index : tile.first.row.row) + line.row;
  return row * a.query.num_q_heads + HeadOf(tile, line);
}

/// Leaves a tile's scores for score_topk, each by one warp of those that share it.
template <typename S>
NSA_DEVICE void KeepScores(const SplitAttention& a, const RowTile& tile,
                           const CompressedLine (&lines)[2], int number, const TileScores& scores) {
  if (a.scores.data == nullptr) return;
  NSA_UNROLL
  for (int half = 0; half < 2; ++half) {
    float* kept =
        a.scores.data + ResultOf(a, tile, lines[half]) * a.scores.stride + number * kTileRows;
    NSA_UNROLL
    for (int i = 0; i < kTileRows / 4; ++i) {
      const int n = i / 2, place = PlaceInTile(n, i % 2);
      const bool is_ours = n / 2 % S::kSharers == WarpIndex() % S::kSharers;
      if (is_ours && lines[half].Sees(number * kTileRows + place)) {
        kept[place] = scores[n][2 * half + i % 2];
      }
    }
  }
}

/// Leaves the groups' masses of a tile, behind a barrier. A lane takes the place of those scores
/// alone that only it reads.
template <typename S>
NSA_DEVICE void KeepMasses(const SplitAttention& a, const RowTile& tile,
                           const RowTileShared<typename S::T>& shared,
                           const CompressedLine (&lines)[2], int number, const TileScores& scores) {
  NSA_UNROLL
  for (int half = 0; half < 2; ++half) {
    if (!lines[half].is_there) continue;
    const int64_t row = tile.first.row.row + lines[half].row;
    const float lse = a.masses.lse[row * a.query.num_q_heads + HeadOf(tile, lines[half])];
    NSA_UNROLL
    for (int i = 0; i < kTileRows / 4; ++i) {
      if (i / 4 % S::kSharers != WarpIndex() % S::kSharers) continue;
      shared.scores[lines[half].line * kScorePitch + PlaceInTile(i / 2, i % 2)] =
          Exp(scores[i / 2][2 * half + i % 2] - lse);
    }
  }
  SyncThreads();
  const int num_heads = tile.first.num_heads;
  for (int i = ThreadIndex(); i < kTileRows * tile.num_rows; i += kThreads) {
    const int row = i / kTileRows, place = i % kTileRows,
              number_of_row = number * kTileRows + place;
    const Extent& extent = shared.extents[row];
    if (number_of_row < extent.begin || number_of_row >= extent.end) continue;
    float sum = 0;
    for (int h = 0; h < num_heads; ++h) {
      sum += shared.scores[(row * num_heads + h) * kScorePitch + place];
    }
    if (a.masses.is_mean) sum = sum / static_cast<float>(num_heads);
    const int64_t list = (tile.first.index + row) * a.query.kv.num_kv_heads + tile.first.kv_head;
    a.masses.data[list * a.masses.stride + number_of_row] = sum;
  }
}

/// The split's sums of weights over all columns.
template <typename S>
NSA_DEVICE void SumColumns(LaneSplit<S>& split) {
  NSA_UNROLL
  for (int half = 0; half < 2; ++half) {
    split.sum[half] += ShuffleXor(split.sum[half], 1);
    split.sum[half] += ShuffleXor(split.sum[half], 2);
  }
}

/// Calls body(half, dim, sum) for a lane's elements of `sums` whose lines are there.
template <typename S, typename Body>
NSA_DEVICE void ForEachOut(const SplitAttention& a, const CompressedLine (&lines)[2],
                           typename S::Sums& sums, Body&& body) {
  NSA_UNROLL
  for (int j = 0; j < S::kPairs; ++j) {
    if (FirstDim<S>(j) >= a.query.kv.head_dim_v) continue;
    NSA_UNROLL
    for (int i = 0; i < 8; ++i) {
      const int half = i % 4 / 2;
      const int dim = FirstDim<S>(j) + i / 4 * 8 + LaneIndex() % 4 * 2 + i % 2;
      if (lines[half].is_there) body(half, dim, sums[j][i / 4][i % 4]);
    }
  }
}

/// Leaves a split's parts of those lines that have it in the workspace.
template <typename S>
NSA_DEVICE void StoreParts(const SplitAttention& a, const RowTile& tile,
                           const CompressedLine (&lines)[2], int number, LaneSplit<S>& split) {
  float* parts[2] = {nullptr, nullptr};
  NSA_UNROLL
  for (int half = 0; half < 2; ++half) {
    const CompressedLine& line = lines[half];
    if (line.begin >= line.end || line.end <= number * kSplitRows) continue;
    parts[half] = PartOf(a, tile.first.index + line.row, HeadOf(tile, line),
                         number - line.begin / kSplitRows);
    if (LaneIndex() % 4 != 0 || WarpIndex() % S::kSharers != 0) continue;
    parts[half][0] = split.maximum[half];
    parts[half][1] = split.sum[half];
  }
  ForEachOut<S>(a, lines, split.out, [&](int half, int dim, float sum) {
    if (parts[half] != nullptr) parts[half][2 + dim] = Unscaled(sum);
  });
}

/// Joins a split into those lines that have it. What is joined so far waits in the result, where
/// each lane comes back to its own: registers have no room for it beside the split's own sums.
template <typename S>
NSA_DEVICE void JoinSplit(const SplitAttention& a, const RowTile& tile,
                          const CompressedLine (&lines)[2], int number, LaneSplit<S>& split,
                          Softmax (&so_far)[2]) {
  JoinFactors factors[2];
  float* results[2] = {nullptr, nullptr};
  bool is_first[2], is_last[2];
  NSA_UNROLL
  for (int half = 0; half < 2; ++half) {
    const CompressedLine& line = lines[half];
    is_first[half] = number == line.begin / kSplitRows;
    is_last[half] = number == (line.end - 1) / kSplitRows;
    if (line.begin >= line.end || line.end <= number * kSplitRows) continue;
    factors[half] = Join(so_far[half], split.maximum[half], split.sum[half]);
    if constexpr (S::kPairs > 0) {
      results[half] = a.result.out + ResultOf(a, tile, line) * a.query.kv.head_dim_v;
    }
  }
  ForEachOut<S>(a, lines, split.out, [&](int half, int dim, float sum) {
    if (results[half] == nullptr) return;
    const float before = is_first[half] ? 0 : results[half][dim];
    const float joined = before * factors[half].before + Unscaled(sum) * factors[half].added;
    results[half][dim] = is_last[half] ? Quotient(joined, so_far[half]) : joined;
  });
}

/// What JoinSplit does not leave: log-sum-exps, and zeros of lines that see nothing.
template <typename S>
NSA_DEVICE void StoreRest(const SplitAttention& a, const RowTile& tile,
                          const CompressedLine (&lines)[2], const Softmax (&so_far)[2]) {
  NSA_UNROLL
  for (int half = 0; half < 2; ++half) {
    const CompressedLine& line = lines[half];
    if (!line.is_there) continue;
    if (LaneIndex() % 4 == 0 && WarpIndex() % S::kSharers == 0 && a.result.lse != nullptr) {
      a.result.lse[ResultOf(a, tile, line)] = LogSumExp(so_far[half]);
    }
    if (S::kPairs == 0 || line.begin < line.end) continue;
    float* out = a.result.out + ResultOf(a, tile, line) * a.query.kv.head_dim_v;
    const int lane = WarpIndex() % S::kSharers * 4 + LaneIndex() % 4;
    for (int dim = lane; dim < a.query.kv.head_dim_v; dim += 4 * S::kSharers) out[dim] = 0;
  }
}

/// Tiles that a CTA walks.
struct TileRange {
  int begin;
  int end;
};
NSA_DEVICE TileRange TilesOfCta(const SplitAttention& a, const TileExtent& extent) {
  if (extent.begin >= extent.end) return {0, 0};
  const int begin = extent.begin / kTileRows, end = (extent.end + kTileRows - 1) / kTileRows;
  if (!a.cta_per_split) return {begin, end};
  const int first = (extent.begin / kSplitRows + static_cast<int>(CtaY())) * kSplitTiles;
  const int last = first + kSplitTiles;
  return {first > begin ? first : begin, last < end ? last : end};
}

/// CTA (i, s): tile, KV head and heads of its group by i; the s-th split that its rows read, or all
/// of them. Values load while scores are made, and the next keys while values are added.
template <typename S>
NSA_KERNEL(kThreads)
CompressedKernel(NSA_ARGS SplitAttention a) {
  using T = typename S::T;
  constexpr bool kHasValues = S::kPairs > 0;
  const RowTile tile = RowTileOfCta(a, S::kBlocks);
  if (tile.num_rows == 0) return;
  const RowTileShared<T> shared = TakeRowTileShared<T>(a, S::kBlocks, kHasValues);
  const TileExtent extent = LayOutExtents(a, tile, shared);
  const TileRange tiles = TilesOfCta(a, extent);
  if (a.cta_per_split && tiles.begin >= tiles.end) return;
  const bool has_softmax = kHasValues || a.result.lse != nullptr;
  const CompressedLine lines[2] = {LaneLineAt<S>(a, tile, shared, 0),
                                   LaneLineAt<S>(a, tile, shared, 1)};
  if (tiles.begin < tiles.end) StartKeys(a, tile, extent, tiles.begin, shared.KeysOf(tiles.begin));
  LayOutQueries<S::kQueryTerms>(a, tile, S::kBlocks * kMmaLines, shared);
  LaneSplit<S> split;
  ClearSplit(split);
  Softmax so_far[2];
  for (int number = tiles.begin; number < tiles.end; ++number) {
    const bool has_next = number + 1 < tiles.end;
    WaitCopies<0>();
    SyncThreads();  // keys are there; nobody reads what comes next into their place
    if constexpr (kHasValues) {
      StartValues(a, tile, extent, number, shared.values);
    } else if (has_next) {
      StartKeys(a, tile, extent, number + 1, shared.KeysOf(number + 1));
    }
    TileScores scores;
    ScoreTile<T, S::kQueryTerms, S::kBlocks>(a, tile, shared, lines, number, has_softmax, scores);
    KeepScores<S>(a, tile, lines, number, scores);
    if constexpr (!kHasValues) {
      if (a.masses.data != nullptr) KeepMasses<S>(a, tile, shared, lines, number, scores);
    }
    if (has_softmax) ToWeights(scores, split);
    if constexpr (kHasValues) {
      WaitCopies<0>();
      SyncThreads();  // values are there; nobody reads these keys any more
      if (has_next) StartKeys(a, tile, extent, number + 1, shared.KeysOf(number + 1));
      const bool is_mixed = extent.mixed < (number + 1) * kTileRows;
      AddValues(a, tile, shared, lines, number, is_mixed, scores, split);
    }
    if (!has_softmax || (has_next && number % kSplitTiles != kSplitTiles - 1)) continue;
    SumColumns(split);
    if (a.cta_per_split) {
      StoreParts(a, tile, lines, number / kSplitTiles, split);
    } else {
      JoinSplit(a, tile, lines, number / kSplitTiles, split, so_far);
    }
    ClearSplit(split);
  }
  if (!a.cta_per_split) StoreRest<S>(a, tile, lines, so_far);
}

/// Blocks of 16 lines and rows of a CTA.
struct TileShape {
  int num_blocks;
  int rows;
};

/// As many rows as 64 lines and shared memory have room for; in a decode step as few lines as hold
/// a group, so that warps share them.
TileShape TileShapeOf(const SplitAttention& a, bool has_values) {
  const int group = a.query.num_q_heads / a.query.kv.num_kv_heads;
  const auto fits = [&](int blocks, int rows) {
    return SharedBytesOf(SizesOfRowTile(a, blocks, rows, has_values)) <= kMaxSharedBytes;
  };
  int blocks = kMaxLineBlocks;
  while (blocks > 1 && a.one_row_each && group <= kMmaLines * blocks / 2) blocks /= 2;
  for (; blocks > 1; blocks /= 2) {
    const int rows = a.one_row_each ? 1 : kMmaLines * blocks / HeadsOfTile(a, blocks);
    if (fits(blocks, rows)) return {blocks, rows};
  }
  int rows = a.one_row_each ? 1 : kMmaLines / HeadsOfTile(a, 1);
  while (rows > 1 && !fits(1, rows)) --rows;
  return {1, rows};
}

template <typename S>
void LaunchKernel(Stream& stream, const char* name, const SplitAttention& a) {
  const RowTileSizes sizes = SizesOfRowTile(a, S::kBlocks, a.rows_per_tile, S::kPairs > 0);
  Launch(stream,
         {.name = name,
          .grid_x = NumTileCtas(a, S::kBlocks),
          .grid_y = a.cta_per_split ? a.num_splits : 1,
          .num_threads = kThreads,
          .shared_bytes = SharedBytesOf(sizes)},
         CompressedKernel<S>, a);
}

template <typename T, int kDimsV>
void LaunchDims(Stream& stream, const char* name, SplitAttention a) {
  const TileShape shape = TileShapeOf(a, kDimsV > 0);
  a.rows_per_tile = shape.rows;
  if (shape.num_blocks == 1) return LaunchKernel<CompressedShape<T, 1, kDimsV>>(stream, name, a);
  if (shape.num_blocks == 2) return LaunchKernel<CompressedShape<T, 2, kDimsV>>(stream, name, a);
  LaunchKernel<CompressedShape<T, 4, kDimsV>>(stream, name, a);
}

template <typename T>
void LaunchType(Stream& stream, const char* name, const SplitAttention& a) {
  if (a.result.out == nullptr) return LaunchDims<T, 0>(stream, name, a);
  if (a.query.kv.head_dim_v <= 64) return LaunchDims<T, 64>(stream, name, a);
  LaunchDims<T, kMaxDimsV>(stream, name, a);
}

}  // namespace

bool TakesCompressedTiles(const SplitAttention& a) {
  if (!a.uses_tensor_cores || a.reads != Reads::kCompressed || a.rows.bias_offset >= 0) {
    return false;
  }
  if (a.rows.dtype != DType::kBF16 && a.rows.dtype != DType::kF16) return false;
  const int dims_k = a.query.kv.head_dim_k, dims_v = a.query.kv.head_dim_v;
  const bool has_values = a.rows.v_offset >= 0;
  if (dims_k % 16 != 0 || dims_k > kMaxDimsK) return false;
  if (has_values && (dims_v % 16 != 0 || dims_v > kMaxDimsV)) return false;
  if (HasNearRows(a) && a.max_page_distance < 0) return false;
  if (!CanCopy16Bytes(a.rows.slots,
                      {a.rows.page_stride, a.rows.head_stride, has_values ? a.rows.v_offset : 0})) {
    return false;
  }
  return SharedBytesOf(SizesOfRowTile(a, 1, 1, has_values)) <= kMaxSharedBytes;
}

bool TilesHoldGroups(const SplitAttention& attention) {
  SplitAttention a = attention;
  float mass = 0;
  a.masses.data = &mass;  // they take shared memory
  const int group = a.query.num_q_heads / a.query.kv.num_kv_heads;
  return HeadsOfTile(a, TileShapeOf(a, false).num_blocks) == group;
}

void LaunchMmaCompressed(Stream& stream, const char* name, const SplitAttention& attention) {
  if (attention.rows.dtype == DType::kBF16) {
    return LaunchType<Bf16>(stream, name, attention);
  }
  LaunchType<F16>(stream, name, attention);
}

}  // namespace nsa::kernels::cuda
