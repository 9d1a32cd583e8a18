#ifndef NSA_KERNELS_CPU_PAGED_ATTENTION_H_
#define NSA_KERNELS_CPU_PAGED_ATTENTION_H_

#include <algorithm>
#include <cstdint>
#include <limits>

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/staged_call.h"
#include "kernels/ops/attention.h"

/// Softmax attention over lists of page pieces: what win_attn, full_attn and sel_attn share.
namespace nsa::kernels::cpu {

/// Pieces are joined in splits of this many: the grain of parallel work for one row. A constant of
/// the arithmetic, so independent of rows and threads.
inline constexpr int kPiecesPerSplit = 8;

/// Consecutive tokens of one page.
struct PagePiece {
  int64_t page_index;     // in the sequence's page table
  int64_t page_distance;  // pages by which the query is rotated
  int begin;              // first token, in the page
  int end;                // one past the last; an empty piece has end ≤ begin
};

/// What one (row, KV head) reads, in rising order: some sel_blocks, then all pages of a token
/// range.
struct RowPieces {
  int64_t query_page = 0;
  // Sel_blocks up to a token, none of which stands farther back than `max_page_distance`.
  int64_t num_sel_pieces = 0;
  const int32_t* sel_blocks = nullptr;
  int sel_block_size = kPageSize;
  int64_t sel_end_token = 0;
  int64_t max_page_distance = std::numeric_limits<int64_t>::max();
  // The range, which may be empty.
  int64_t begin_token = 0;
  int64_t end_token = 0;

  int64_t NumRangePieces() const {
    return end_token > begin_token ? (end_token - 1) / kPageSize - begin_token / kPageSize + 1 : 0;
  }
  int64_t NumPieces() const { return num_sel_pieces + NumRangePieces(); }
  PagePiece Get(int64_t i) const { return i < num_sel_pieces ? OfBlock(i) : OfRange(i); }

 private:
  PagePiece OfBlock(int64_t i) const {
    const int64_t per_block = std::max(1, sel_block_size / kPageSize);
    const int64_t token =
        sel_blocks[i / per_block] * int64_t{sel_block_size} + i % per_block * kPageSize;
    const int64_t end =
        std::min<int64_t>(token + std::min(sel_block_size, kPageSize), sel_end_token);
    const int64_t page = token / kPageSize;
    return {page, std::min(query_page - page, max_page_distance),
            static_cast<int>(token - page * kPageSize), static_cast<int>(end - page * kPageSize)};
  }
  PagePiece OfRange(int64_t i) const {
    const int64_t page = begin_token / kPageSize + i - num_sel_pieces;
    return {page, query_page - page,
            static_cast<int>(std::max<int64_t>(0, begin_token - page * kPageSize)),
            static_cast<int>(std::min<int64_t>(kPageSize, end_token - page * kPageSize))};
  }
};

/// A row of a call: where it stands and what it belongs to.
struct QueryRow {
  const AttentionSegment* segment;
  int64_t row;       // in the call's row arrays
  int64_t position;  // t
};

/// Tells what rows read. Called from many threads.
class PieceSource {
 public:
  PieceSource(const PieceSource&) = delete;
  PieceSource& operator=(const PieceSource&) = delete;

  /// The row's token range, which all KV heads read.
  virtual RowPieces Range(const QueryRow& row) const = 0;
  /// The most pieces of sel_blocks that a KV head of the row reads: known before the choice.
  virtual int64_t MaxSelPieces(const QueryRow& /*row*/) const { return 0; }
  /// Adds the sel_blocks that were chosen.
  virtual void AddSelected(const QueryRow& /*row*/, int /*kv_head*/, RowPieces& /*pieces*/) const {}

 protected:
  PieceSource() = default;
  ~PieceSource() = default;
};

/// Consecutive rows of one segment: the rows of one task.
struct RowTile {
  const AttentionSegment* segment;
  int32_t first;  // counted from the segment's first row
  int32_t num_rows;

  QueryRow Row(int32_t i) const {
    return {segment, int64_t{segment->row_begin} + first + i, segment->position + first + i};
  }
};

/// Cuts the segments into tiles of up to `max_rows`, and at page borders: a tile's rows stand in
/// one page.
inline List<RowTile> MakeTiles(const AttentionSegment* segments, int num_segments, int32_t max_rows,
                               const ListScope& scope) {
  List<RowTile> tiles(scope.memory());
  for (int s = 0; s < num_segments; ++s) {
    const AttentionSegment& segment = segments[s];
    for (int32_t first = 0; first < segment.num_rows;) {
      const int64_t to_border = kPageSize - (segment.position + first) % kPageSize;
      const int32_t num_rows =
          static_cast<int32_t>(std::min<int64_t>({max_rows, to_border, segment.num_rows - first}));
      tiles.push_back({&segment, first, num_rows});
      first += num_rows;
    }
  }
  return tiles;
}

/// Floats that scoring compressed rows needs for `num_queries` queries at once, those of all KV
/// heads together.
inline int64_t CmpScorerFloats(int64_t num_queries, int64_t head_dim_k, int64_t rows_per_page) {
  const int64_t page_floats = head_dim_k * rows_per_page;
  // Queries are laid out like a page, unless a page's rows fill a vector of any target.
  const int64_t query_floats = rows_per_page < 16 ? page_floats + 16 : head_dim_k + 1;
  return num_queries * (2 * query_floats + 2) + 2 * head_dim_k + 6 * page_floats;
}

/// Stages of PagedAttention. Only kSelStage asks what was chosen.
enum PagedStage { kRangeStage, kSelStage, kJoinStage, kNumPagedStages };

/// Attention of every row over the pieces of `source`. Row-invariant. For one row the pieces are
/// read in order; an online softmax runs over the pieces of a split, sel_blocks and range apart,
/// and the splits are joined in order, whether one task makes them all (then kSelStage does) or one
/// task each. `parts` holds what tasks leave for the join. `query`, `source` and `parts` outlive
/// the call.
StagedCallPtr StagePagedAttention(Context& context, const ListScope& scope,
                                  const AttentionQuery& query, const PieceSource& source,
                                  const BranchOutput& result, Scratch& parts);

}  // namespace nsa::kernels::cpu

#endif  // NSA_KERNELS_CPU_PAGED_ATTENTION_H_
