#ifndef NSA_KERNELS_CPU_PAGED_CALL_H_
#define NSA_KERNELS_CPU_PAGED_CALL_H_

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/paged_attention.h"

/// What the parts of PagedAttention know of a call.
namespace nsa::kernels::cpu {

/// Queries (rows × heads of a group) that share the scores of one page: their scores, queries and
/// sums stay in the L1 cache beside the page.
inline constexpr int kMaxChunkQueries = 24;

inline constexpr int32_t kMaxTileRows = 16;

/// How a tile's lists are cut into parts: splits of sel_blocks, as many as the longest list may
/// have, then those of the range. Parts that a row does not reach are empty and change no bit.
struct TileSplits {
  int64_t num_sel;
  int64_t num_all;
  int64_t first_part;
};

/// One call, split into tasks.
struct AttentionCall {
  const AttentionQuery& query;
  const PieceSource& source;
  BranchOutput result;
  int group;  // query heads per KV head
  List<RowTile> tiles;
  /// Where tasks leave parts: [tiles][splits][tile rows][num_q_heads] of {acc [head_dim_v],
  /// maximum, sum}.
  float* parts = nullptr;
  List<TileSplits> splits;  // by tile

  int64_t PartFloats() const { return query.kv.head_dim_v + 2; }
  float* Part(size_t tile, int64_t split, int32_t row, int head) const {
    const int64_t index = split * tiles[tile].num_rows + row;
    return parts + (splits[tile].first_part + index * query.num_q_heads + head) * PartFloats();
  }
};

/// A task: one tile's rows and one KV head; all splits to the end result, or splits [first, end),
/// of sel_blocks or of the range alone, to their parts.
struct AttentionTask {
  size_t tile;
  int kv_head;
  int64_t first_split = 0;
  int64_t end_split = -1;

  bool MakesParts() const { return end_split >= 0; }
};

/// Where a row of a tile is in its list of pieces.
struct PieceCursor {
  RowPieces pieces;
  int64_t next;  // index of `piece`
  int64_t end;
  int64_t split;  // that `piece` belongs to, where the task makes parts
  PagePiece piece;
  PagePiece following;  // the one after `piece`, where there is one
};

}  // namespace nsa::kernels::cpu

#endif  // NSA_KERNELS_CPU_PAGED_CALL_H_
