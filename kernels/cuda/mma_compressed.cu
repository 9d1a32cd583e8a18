#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "kernels/cuda/launch.h"
#include "kernels/cuda/mma_compressed.h"
#include "kernels/cuda/mma_compressed_copies.h"
#include "kernels/cuda/mma_compressed_scores.h"
#include "kernels/cuda/mma_compressed_tile.h"
#include "kernels/cuda/mma_lines.h"
#include "kernels/cuda/mma_results.h"
#include "kernels/cuda/mma_tile.h"
#include "kernels/cuda/softmax.h"
#include "kernels/cuda/split_parts.h"

namespace nsa::kernels::cuda {
namespace {

constexpr int kMaxDimsK = 256, kMaxDimsV = 128;

template <typename S>
NSA_DEVICE CompressedLine CompressedLineAt(const SplitAttention& a, const RowTile& tile,
                                           const RowTileShared<typename S::T>& shared, int half) {
  const TileLine line =
      TileLineAt<S>(tile, half, [&](int row) { return SplitsOf(shared.extents[row]); });
  if (!line.is_there) return {line, {0, 0}, INT32_MAX};
  const Extent& extent = shared.extents[line.row];
  return {line,
          {static_cast<int>(extent.begin), static_cast<int>(extent.end)},
          LastFarPage(a, tile, line.row)};
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
      const bool is_ours = n / 2 % S::kSharers == S::Part();
      if (is_ours && lines[half].reads.Holds(number * kTileRows + place)) {
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
      if (i / 4 % S::kSharers != S::Part()) continue;
      shared.scores[lines[half].line * kScorePitch + PlaceInTile(i / 2, i % 2)] =
          Exp(scores[i / 2][2 * half + i % 2] - lse);
    }
  }
  SyncThreads();
  const int num_heads = tile.first.num_heads;
  for (int i = ThreadIndex(); i < kTileRows * tile.num_rows; i += NumThreads()) {
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

/// Of compressed rows by their numbers: their places in the tile.
NSA_DEVICE TileRange RowsInTile(const Extent& rows, int number) {
  return {static_cast<int>(rows.begin) - number * kTileRows,
          static_cast<int>(rows.end) - number * kTileRows};
}

/// Tiles that a CTA walks.
struct Tiles {
  int begin;
  int end;
};
NSA_DEVICE Tiles TilesOfCta(const SplitAttention& a, const TileExtent& extent) {
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
NSA_KERNEL(S::kNumThreads)
CompressedKernel(NSA_ARGS SplitAttention a) {
  using T = typename S::T;
  constexpr bool kHasValues = S::kPairs > 0;
  const RowTile tile = RowTileOfCta(a, S::kBlocks);
  if (tile.num_rows == 0) return;
  const RowTileShared<T> shared = TakeRowTileShared<T>(a, S::kBlocks, kHasValues);
  const TileExtent extent = LayOutExtents(a, tile, shared);
  const Tiles tiles = TilesOfCta(a, extent);
  if (a.cta_per_split && tiles.begin >= tiles.end) return;
  const bool has_softmax = kHasValues || a.result.lse != nullptr;
  const CompressedLine lines[2] = {CompressedLineAt<S>(a, tile, shared, 0),
                                   CompressedLineAt<S>(a, tile, shared, 1)};
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
    ScoreTile<S>(a, tile, shared, lines, number, has_softmax, scores);
    KeepScores<S>(a, tile, lines, number, scores);
    if constexpr (!kHasValues) {
      if (a.masses.data != nullptr) KeepMasses<S>(a, tile, shared, lines, number, scores);
    }
    if (has_softmax && HasLines<S>(tile)) ToWeights(scores, split);
    if constexpr (kHasValues) {
      WaitCopies<0>();
      SyncThreads();  // values are there; nobody reads these keys any more
      if (has_next) StartKeys(a, tile, extent, number + 1, shared.KeysOf(number + 1));
      const bool is_mixed = extent.mixed < (number + 1) * kTileRows;
      if (HasLines<S>(tile))
        AddValues(
            a.query, tile, lines, shared.values, is_mixed, scores,
            [&](int row) { return RowsInTile(shared.extents[row], number); }, split);
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

TileShape TileShapeOf(const SplitAttention& a, bool has_values) {
  const int most_rows = a.one_row_each ? 1 : kMmaLines * kMaxLineBlocks;
  return ChooseTile(a, kMaxLineBlocks, most_rows, [&](int blocks, int rows) {
    return SharedBytesOf(SizesOfRowTile(a, blocks, rows, has_values)) <= kMaxSharedBytes;
  });
}

template <typename S>
void LaunchKernel(Stream& stream, const char* name, const SplitAttention& a) {
  const RowTileSizes sizes = SizesOfRowTile(a, S::kBlocks, a.rows_per_tile, S::kPairs > 0);
  Launch(stream,
         {.name = name,
          .grid_x = NumTileCtas(a, S::kBlocks),
          .grid_y = a.cta_per_split ? a.num_splits : 1,
          .num_threads = S::kNumThreads,
          .shared_bytes = SharedBytesOf(sizes)},
         CompressedKernel<S>, a);
}

template <typename T, int kDimsV>
void LaunchDims(Stream& stream, const char* name, SplitAttention a) {
  const TileShape shape = TileShapeOf(a, kDimsV > 0);
  a.rows_per_tile = shape.rows;
  WithLineShape<T, kDimsV>(shape.num_blocks,
                           [&](auto lines) { LaunchKernel<decltype(lines)>(stream, name, a); });
}

template <typename T>
void LaunchType(Stream& stream, const char* name, const SplitAttention& a) {
  if (a.result.out == nullptr) return LaunchDims<T, 0>(stream, name, a);
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
