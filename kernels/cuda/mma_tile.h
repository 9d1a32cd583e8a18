#ifndef NSA_KERNELS_CUDA_MMA_TILE_H_
#define NSA_KERNELS_CUDA_MMA_TILE_H_

#include <cstddef>
#include <cstdint>
#include <initializer_list>

#include "kernels/cuda/device.h"
#include "kernels/cuda/split_parts.h"
#include "kernels/cuda/stretches.h"

/// The rows of queries that a CTA of mma_attention and of mma_compressed takes.
///
/// Consecutive rows of a segment, each with some heads of one group: line i is head i % num_heads
/// of row i / num_heads, and a block of 16 lines is the left operand of mma.m16n8k16. A line's sums
/// are its own, and keys that its row does not read leave them as they are, so that no line's bits
/// depend on the others.
namespace nsa::kernels::cuda {

inline constexpr int kMmaLines = 16;
inline constexpr int kMaxLineBlocks = 8;
/// Of a CTA on sm_80 (CUDA C++ Programming Guide, "Compute Capabilities"): the least of those that
/// we build for.
inline constexpr int64_t kMaxSharedBytes = int64_t{163} * 1024;

/// Warps of a CTA: one a block of lines, or four that share the blocks.
constexpr int NumWarps(int num_blocks) { return num_blocks < 4 ? 4 : num_blocks; }

/// Terms that a call's queries or weights have, where float32 takes `most`.
constexpr int NumTerms(const AttentionQuery& query, int most) {
  return query.precision == AttentionPrecision::kFloat32 ? most : 1;
}

/// Heads of a group that a CTA takes.
constexpr int HeadsOfTile(const SplitAttention& a, int num_blocks) {
  const int group = a.query.num_q_heads / a.query.kv.num_kv_heads;
  const int lines = kMmaLines * num_blocks;
  return group < lines ? group : lines;
}

/// Blocks of 16 lines and rows of a CTA.
struct TileShape {
  int num_blocks;
  int rows;
};

/// As many rows, up to `max_rows`, as `max_blocks` and shared memory (`fits(blocks, rows)`) have
/// room for, in as few blocks as hold them: in a decode step as few as hold a group, so that warps
/// share them.
template <typename Fits>
TileShape ChooseTile(const SplitAttention& a, int max_blocks, int max_rows, Fits&& fits) {
  for (int blocks = max_blocks; blocks > 1; blocks /= 2) {
    const int heads = HeadsOfTile(a, blocks), lines = kMmaLines * blocks;
    const int rows = lines / heads < max_rows ? lines / heads : max_rows;
    if (rows * heads > lines / 2 && fits(blocks, rows)) return {blocks, rows};
  }
  int rows = kMmaLines / HeadsOfTile(a, 1);
  if (rows > max_rows) rows = max_rows;
  while (rows > 1 && !fits(1, rows)) --rows;
  return {1, rows};
}

/// CTAs of a call whose rows are in tiles (RowTileOfCta). The host does not know where
/// segments end; CTAs without rows leave at once.
constexpr int64_t NumTileCtas(const SplitAttention& a, int num_blocks) {
  const int num_kv_heads = a.query.kv.num_kv_heads, rows = a.rows_per_tile;
  const int passes = Passes(a.query.num_q_heads / num_kv_heads, HeadsOfTile(a, num_blocks));
  const int64_t tiles =
      rows == 1 ? a.num_rows : (a.num_rows + a.query.num_segments * int64_t{rows - 1}) / rows;
  return tiles * num_kv_heads * passes;
}

/// Whether cp.async can move 16 bytes from `slots` on, and from all places at these offsets: it
/// takes multiples of 16.
inline bool CanCopy16Bytes(const std::byte* slots, std::initializer_list<int64_t> offsets) {
  int64_t all = static_cast<int64_t>(reinterpret_cast<uintptr_t>(slots));
  for (const int64_t offset : offsets) all |= offset;
  return all % 16 == 0;
}

struct RowTile {
  /// As a Task's, without what it reads: registers would hold that to the end.
  struct First {
    SegmentRow row;
    int64_t index;
    int kv_head;
    int first_head;
    int num_heads;
  };
  First first;  // of its first row
  int num_rows;
  int num_lines;
};

/// Tile, KV head and heads of its group by the CTA's x.
NSA_DEVICE RowTile RowTileOfCta(const SplitAttention& a, int num_blocks) {
  const AttentionQuery& query = a.query;
  const int group = query.num_q_heads / query.kv.num_kv_heads;
  const int heads = HeadsOfTile(a, num_blocks);
  const Split by_pass = SplitIndex(CtaX(), Passes(group, heads));
  const Split by_head = SplitIndex(by_pass.quotient, query.kv.num_kv_heads);
  SegmentRows rows = {{nullptr, 0, 0}, by_head.quotient, 1};
  if (a.rows_per_tile > 1) {
    rows = FindTile(query.segments, query.num_segments, a.rows_per_tile, a.first_index, a.num_rows,
                    by_head.quotient);
    if (rows.num_rows == 0) return {{}, 0, 0};
  } else {
    rows.first = FindRow(query.segments, a.one_row_each, a.first_index + by_head.quotient);
  }
  const int first = static_cast<int>(by_pass.remainder) * heads, left = group - first;
  const int num_heads = left < heads ? left : heads;
  const auto kv_head = static_cast<int>(by_head.remainder);
  return {{rows.first, rows.index, kv_head, kv_head * group + first, num_heads},
          rows.num_rows,
          rows.num_rows * num_heads};
}

NSA_DEVICE Task TaskOfRow(const SplitAttention& a, const RowTile& tile, int row) {
  const RowTile::First& first = tile.first;
  return MakeTask(a, {first.row.page_table, first.row.row + row, first.row.position + row},
                  first.index + row, first.first_head, first.num_heads);
}

/// One of the two lines that a lane has of its warp's block.
struct TileLine {
  bool is_there;
  int line;         // of the CTA
  int row;          // of the tile
  int begin_split;  // of its row: [begin_split, end_split)
  int end_split;

  NSA_DEVICE bool HasSplit(int split) const { return split >= begin_split && split < end_split; }
};

NSA_DEVICE int64_t HeadOf(const RowTile& tile, const TileLine& line) {
  return tile.first.first_head + line.line - line.row * tile.first.num_heads;
}
/// Where the results of a line stand, and its scores.
NSA_DEVICE int64_t ResultOf(const SplitAttention& a, const RowTile& tile, const TileLine& line) {
  const int64_t row = (a.is_batch ? tile.first.index : tile.first.row.row) + line.row;
  return row * a.query.num_q_heads + HeadOf(tile, line);
}

}  // namespace nsa::kernels::cuda

#endif  // NSA_KERNELS_CUDA_MMA_TILE_H_
