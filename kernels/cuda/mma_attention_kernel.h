#ifndef NSA_KERNELS_CUDA_MMA_ATTENTION_KERNEL_H_
#define NSA_KERNELS_CUDA_MMA_ATTENTION_KERNEL_H_

#include <cstdint>

#include "kernels/cuda/launch.h"
#include "kernels/cuda/mma_attention.h"
#include "kernels/cuda/mma_copies.h"
#include "kernels/cuda/mma_lines.h"
#include "kernels/cuda/mma_page_scores.h"
#include "kernels/cuda/mma_page_tile.h"
#include "kernels/cuda/mma_results.h"
#include "kernels/cuda/mma_tile.h"
#include "kernels/cuda/mma_walk.h"
#include "kernels/cuda/softmax.h"

/// The kernels of mma_attention for one type of cache, which a source each compiles: they take nvcc
/// longer than most.
namespace nsa::kernels::cuda {

/// One split of the rows, into `split`. A page's values load while its scores are made, and the
/// next page's keys while its values are added.
template <typename C, typename S>
NSA_DEVICE void MakeSplit(const SplitAttention& a, const RowTile& tile,
                          const PageTileShared<typename S::T>& shared, const TileLine (&lines)[2],
                          int64_t number, LaneSplit<S>& split) {
  const PagedKv& kv = a.query.kv;
  ClearSplit(split);
  LayOutWalk(a, tile, shared, number);
  const int num_pages = *shared.num_pages;
  if (num_pages > 0) StartKeys<C>(a, shared.pages[0], shared);
  for (int i = 0; i < num_pages; ++i) {
    const TilePage page = shared.pages[i];
    TileRange ranges[2] = {{0, 0}, {0, 0}};
    NSA_UNROLL
    for (int half = 0; half < 2; ++half) {
      if (lines[half].is_there) ranges[half] = RangeOfRow(a, shared.reads, page, lines[half].row);
    }
    const auto lacks = [&](int half) {
      return lines[half].is_there &&
             (ranges[half].begin > page.begin || ranges[half].end < page.end);
    };
    const bool reads_page =
        Ballot(ranges[0].begin < ranges[0].end || ranges[1].begin < ranges[1].end) != 0;
    const bool is_mixed = Ballot(lacks(0) || lacks(1)) != 0;
    LayOutTurned<S>(a, tile, shared, page);
    WaitCopies<0>();
    SyncThreads();  // keys and queries are there; nobody reads the values before
    StartValues<C>(a, page, shared);
    Convert<C>(shared.raw_keys, kv.head_dim_k, kPageSize, shared.keys);
    TileScores scores;
    ScorePage<S>(a, shared, lines, ranges, reads_page, scores);
    if (reads_page) ToWeights(scores, split);
    WaitCopies<0>();
    SyncThreads();  // values are there; nobody reads these keys any more
    if (i + 1 < num_pages) StartKeys<C>(a, shared.pages[i + 1], shared);
    Convert<C>(shared.raw_values, kPageSize, kv.head_dim_v, shared.values);
    if (!reads_page) continue;
    AddValues(
        a.query, tile, lines, shared.values, is_mixed, scores,
        [&](int row) { return RangeOfRow(a, shared.reads, page, row); }, split);
  }
  SumColumns(split);
}

/// CTA (i, s): a tile of rows, a KV head and heads of its group by i; the s-th split that the rows
/// read, or all of them.
template <typename C, typename S>
NSA_KERNEL(S::kNumThreads)
MmaAttendKernel(NSA_ARGS SplitAttention a) {
  const RowTile tile = RowTileOfCta(a, S::kBlocks);
  if (tile.num_rows == 0) return;
  const PageTileShared<typename S::T> shared = TakePageTileShared<typename S::T>(a, S::kBlocks);
  LayOutReads(a, tile, shared);
  const Extent splits = SplitsOfTile(tile, shared);
  if (a.cta_per_split && splits.begin + CtaY() >= splits.end) return;
  LayOutQueries<S>(a, tile, shared);
  const auto splits_of = [&](int row) { return shared.reads[row].splits; };
  const TileLine lines[2] = {TileLineAt<S>(tile, 0, splits_of), TileLineAt<S>(tile, 1, splits_of)};
  LaneSplit<S> split;
  if (a.cta_per_split) {
    const int64_t number = splits.begin + CtaY();
    MakeSplit<C>(a, tile, shared, lines, number, split);
    StoreParts(a, tile, lines, static_cast<int>(number), split);
    return;
  }
  Softmax so_far[2];
  for (int64_t number = splits.begin; number < splits.end; ++number) {
    MakeSplit<C>(a, tile, shared, lines, number, split);
    JoinSplit(a, tile, lines, static_cast<int>(number), split, so_far);
  }
  StoreRest<S>(a, tile, lines, so_far);
}

template <typename C, typename S>
void LaunchLines(Stream& stream, const char* name, const SplitAttention& a) {
  // The rows' windows may begin in two splits.
  const int64_t splits = a.num_splits + (a.rows_per_tile > 1 && a.window_size >= 0 ? 1 : 0);
  Launch(stream,
         {.name = name,
          .grid_x = NumTileCtas(a, S::kBlocks),
          .grid_y = a.cta_per_split ? splits : 1,
          .num_threads = S::kNumThreads,
          .shared_bytes = SharedBytesOf(SizesOfPageTile(a, S::kBlocks, a.rows_per_tile))},
         MmaAttendKernel<C, S>, a);
}

template <typename C>
void LaunchType(Stream& stream, const char* name, SplitAttention a, const TileShape& shape) {
  using T = MmaType<C>;
  a.rows_per_tile = shape.rows;
  if (a.query.kv.head_dim_v > kFewDimsV) {
    return LaunchLines<C, LineShape<T, 1, kMaxDims>>(stream, name, a);
  }
  WithLineShape<T, kFewDimsV>(
      shape.num_blocks, [&](auto lines) { LaunchLines<C, decltype(lines)>(stream, name, a); });
}

}  // namespace nsa::kernels::cuda

#endif  // NSA_KERNELS_CUDA_MMA_ATTENTION_KERNEL_H_
