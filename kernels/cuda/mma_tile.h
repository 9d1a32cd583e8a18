#ifndef NSA_KERNELS_CUDA_MMA_TILE_H_
#define NSA_KERNELS_CUDA_MMA_TILE_H_

#include <cstddef>
#include <cstdint>
#include <initializer_list>

#include "kernels/cuda/device.h"
#include "kernels/cuda/mma_rows.h"
#include "kernels/cuda/split_parts.h"
#include "kernels/cuda/stretches.h"

/// What a CTA of mma_attention works on, and how its shared memory is laid out.
///
/// Consecutive rows of a segment, each with some heads of one group: line i is head i % num_heads
/// of row i / num_heads, and 16 lines are the rows of one mma.m16n8k16. A line's sums are its own,
/// and a page of which its row sees nothing leaves them as they are, so that no line's bits depend
/// on the others.
namespace nsa::kernels::cuda {

inline constexpr int kMmaLines = 16;
/// Of a CTA on sm_80 (CUDA C++ Programming Guide, "Compute Capabilities"): the least of those that
/// we build for, so that all of them have the same bits.
inline constexpr int64_t kMaxSharedBytes = int64_t{163} * 1024;
/// 16 lines each, and 16 · 4 the rows of one CTA at most.
inline constexpr int kMaxMmaTiles = 2;
/// Of queries and of weights.
inline constexpr int kMaxTerms = 3;
inline constexpr int kSplitPages = kSplitRows / kPageSize;
/// Warps that share the tokens of a page, or the dimensions of its values, for the same 16 lines.
inline constexpr int kLineWarps = kThreads / kWarpSize;
static_assert(kPageSize == 16 * kLineWarps, "a warp scores 16 tokens of a page");

/// Terms that a call's queries or weights have, where float32 takes `most`.
constexpr int NumTerms(const AttentionQuery& query, int most) {
  return query.precision == AttentionPrecision::kFloat32 ? most : 1;
}

/// Heads of a group that a CTA takes.
constexpr int HeadsOfTile(const SplitAttention& a, int num_mma_tiles) {
  const int group = a.query.num_q_heads / a.query.kv.num_kv_heads;
  const int lines = kMmaLines * num_mma_tiles;
  return group < lines ? group : lines;
}

/// CTAs of a call whose rows are in tiles (RowTileOfCta). The host does not know where
/// segments end; CTAs without rows leave at once.
constexpr int64_t NumTileCtas(const SplitAttention& a, int num_mma_tiles) {
  const int num_kv_heads = a.query.kv.num_kv_heads, rows = a.rows_per_tile;
  const int passes = Passes(a.query.num_q_heads / num_kv_heads, HeadsOfTile(a, num_mma_tiles));
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

/// Where the rows of a tile read a page of the walk.
struct TilePage {
  const std::byte* slot;  // null: nobody reads it
  uint64_t places;        // four bits a row: the page's place in its split, or kNoPlace
  uint8_t begin;          // tokens that some row reads
  uint8_t end;
  bool is_mixed;  // some row reads fewer
};
inline constexpr int kNoPlace = 15;

/// Sizes of arrays in shared memory, in elements.
struct TileSizes {
  int lines;
  int rows;
  int term;     // of queries, or of weights: [16 · num_mma_tiles, query_pitch]
  int terms;    // all of a buffer
  int buffers;  // of terms: where there is room for two, a barrier is saved
  int tile;     // of keys [head_dim_k, Pitch(64)], or of values [64, Pitch(head_dim_v)]
  int tiles;
  int raw;  // of a page's keys or values before they become 16-bit floats, in bytes
  int q;
  int scores;
  int stretches;
  int pages;
  int keys;
};
constexpr int QueryPitch(const PagedKv& kv) {
  return Pitch(kv.head_dim_k > kPageSize ? kv.head_dim_k : kPageSize);
}
constexpr TileSizes SizesOfTile(const SplitAttention& a, int num_mma_tiles, int rows) {
  const PagedKv& kv = a.query.kv;
  const int lines = rows * HeadsOfTile(a, num_mma_tiles);
  const int keys = kv.head_dim_k * Pitch(kPageSize), values = kPageSize * Pitch(kv.head_dim_v);
  const int dims = kv.head_dim_k > kv.head_dim_v ? kv.head_dim_k : kv.head_dim_v;
  const bool is_union = a.reads == Reads::kSelection && rows > 1;
  const bool is_raw = SizeOf(kv.dtype) == 1;
  const int term = kMmaLines * num_mma_tiles * QueryPitch(kv);
  return {lines,
          rows,
          term,
          NumTerms(a.query, kMaxTerms) * term,
          num_mma_tiles == 1 ? 2 : 1,
          keys > values ? keys : values,
          is_raw ? 1 : 2,
          is_raw ? kPageSize * dims : 0,
          lines * kv.head_dim_k,
          lines * kSplitRows,
          2 * rows * kSplitPages,
          is_union ? rows * kSplitPages : kSplitPages,
          is_union ? 2 * rows * kSplitPages : 0};
}
constexpr int64_t SharedBytesOfTile(const TileSizes& s) {
  int64_t bytes = 0;
  const int64_t pieces[] = {int64_t{2} * s.buffers * s.terms,
                            int64_t{2} * s.tiles * s.tile,
                            int64_t{2} * s.raw,
                            int64_t{4} * s.q,
                            int64_t{4} * s.lines,
                            int64_t{4} * s.scores,
                            int64_t{4} * s.lines,
                            int64_t{4} * s.lines,
                            s.lines,
                            int64_t{s.rows} * static_cast<int64_t>(sizeof(Extent)),
                            int64_t{s.stretches} * static_cast<int64_t>(sizeof(Stretch)),
                            int64_t{s.pages} * static_cast<int64_t>(sizeof(TilePage)),
                            int64_t{4} * s.keys,
                            4};
  for (const int64_t piece : pieces) bytes += CeilDiv(piece, 16) * 16;
  return bytes;
}

/// A CTA's shared memory. Tiles of keys and values take turns in two places (those of 8 bits before
/// they are converted), and so does what they are multiplied by where there are two buffers.
template <typename T>
struct TileShared {
  T* terms;              // [buffers, num_terms, 16 · num_mma_tiles, query_pitch]
  T* tiles;              // [num_tiles, tile_size]
  std::byte* raw;        // [2, raw_size]
  float* q;              // [lines, head_dim_k], turned by the query's own offset, and scaled
  float* unscale;        // [lines]: what scores are multiplied by
  float* scores;         // [lines, kSplitRows], then weights
  float* maximum;        // [lines]
  float* sum;            // [lines]
  uint8_t* row_of_line;  // [lines]
  Extent* splits;        // [rows]
  Stretch* stretches;    // [rows, kSplitPages], of an even split or of an odd one
  TilePage* pages;       // of the split, as they are walked
  int32_t* keys;         // [2, rows · kSplitPages], of a union
  int32_t* num_pages;
  int num_terms;
  int term_size;
  int buffers;
  int tile_size;
  int num_tiles;
  int raw_size;
  int query_pitch;

  /// With the place for the stretches of an odd split, or an even one.
  NSA_DEVICE TileShared ForSplit(int64_t split, int rows) const {
    TileShared shared = *this;
    shared.stretches += split % 2 * rows * kSplitPages;
    return shared;
  }
  NSA_DEVICE T* TermsOf(int step) const { return terms + step % buffers * num_terms * term_size; }
  NSA_DEVICE T* TileOf(int step) const { return tiles + step % num_tiles * tile_size; }
  NSA_DEVICE std::byte* RawOf(int step) const { return raw + step % 2 * raw_size; }
};

template <typename T>
NSA_DEVICE TileShared<T> TakeTileShared(const SplitAttention& a, int num_mma_tiles) {
  const TileSizes s = SizesOfTile(a, num_mma_tiles, a.rows_per_tile);
  SharedArena arena;
  return {arena.Take<T>(s.buffers * s.terms),
          arena.Take<T>(s.tiles * s.tile),
          arena.Take<std::byte>(2 * s.raw),
          arena.Take<float>(s.q),
          arena.Take<float>(s.lines),
          arena.Take<float>(s.scores),
          arena.Take<float>(s.lines),
          arena.Take<float>(s.lines),
          arena.Take<uint8_t>(s.lines),
          arena.Take<Extent>(s.rows),
          arena.Take<Stretch>(s.stretches),
          arena.Take<TilePage>(s.pages),
          arena.Take<int32_t>(s.keys),
          arena.Take<int32_t>(1),
          NumTerms(a.query, kMaxTerms),
          s.term,
          s.buffers,
          s.tile,
          s.tiles,
          s.raw,
          QueryPitch(a.query.kv)};
}

struct RowTile {
  Task first;  // of its first row
  int num_rows;
  int num_lines;
};

/// Tile, KV head and heads of its group by the CTA's x.
NSA_DEVICE RowTile RowTileOfCta(const SplitAttention& a, int num_mma_tiles) {
  const AttentionQuery& query = a.query;
  const int group = query.num_q_heads / query.kv.num_kv_heads;
  const int heads = HeadsOfTile(a, num_mma_tiles);
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
  return {MakeTask(a, rows.first, rows.index, by_head.remainder * group + first, num_heads),
          rows.num_rows, rows.num_rows * num_heads};
}

NSA_DEVICE Task TaskOfRow(const SplitAttention& a, const RowTile& tile, int row) {
  const Task& first = tile.first;
  if (row == 0) return first;
  return MakeTask(a, {first.row.page_table, first.row.row + row, first.row.position + row},
                  first.index + row, first.first_head, first.num_heads);
}

}  // namespace nsa::kernels::cuda

#endif  // NSA_KERNELS_CUDA_MMA_TILE_H_
