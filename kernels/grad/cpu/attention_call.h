#ifndef NSA_KERNELS_GRAD_CPU_ATTENTION_CALL_H_
#define NSA_KERNELS_GRAD_CPU_ATTENTION_CALL_H_

#include <algorithm>
#include <cstdint>
#include <vector>

#include "kernels/cpu/cpu.h"
#include "kernels/grad/grad_attention.h"

/// How a call's work is cut: keys into key blocks, queries into tiles, and which queries of a tile
/// see which key block.
namespace nsa::kernels::grad::cpu {

/// Keys of a key block; fewer where sel_block_size is smaller.
inline constexpr int kMaxBlockKeys = 64;

/// Packed rows are padded to this many floats, a multiple of every target's lanes.
inline constexpr int kPadding = 16;

constexpr int Padded(int count) { return (count + kPadding - 1) / kPadding * kPadding; }

/// A tile: consecutive queries of one sequence.
struct QueryTile {
  int64_t sequence = 0;
  int64_t first = 0;  // position of its first query
  int num_queries = 0;
  int64_t index_in_sequence = 0;
};

/// Queries of a tile that see a key block, as rising offsets from the tile's first.
struct SeeingQueries {
  const int32_t* offsets = nullptr;
  int count = 0;
};

/// Per key block of a sequence the queries of one tile that selected it through one KV head: the
/// transposed selection lists.
struct TileLists {
  std::vector<int32_t> begins;   // [num key blocks + 1] into offsets
  std::vector<int32_t> offsets;  // from the tile's first query
};

/// One call of an operator, with head_dim_k and head_dim_v multiples of kPadding.
class AttentionCall {
 public:
  AttentionCall(const AttentionInput<float>& input, int tile_queries);

  const AttentionInput<float>& input() const { return input_; }
  const HeadShape& heads() const { return input_.heads; }
  const std::vector<QueryTile>& tiles() const { return tiles_; }

  /// Keys of a whole key block, and floats between rows of K of a block packed as [head_dim_k, ·].
  int block_keys() const { return block_keys_; }
  int block_width() const { return Padded(block_keys_); }

  int64_t NumKeys(int64_t sequence) const {
    return key_begins_[sequence + 1] - key_begins_[sequence];
  }
  /// Keys, and key blocks, of the sequences before this one.
  int64_t KeyBegin(int64_t sequence) const { return key_begins_[sequence]; }
  int64_t BlockBegin(int64_t sequence) const { return block_begins_[sequence]; }
  int64_t NumBlocks(int64_t sequence) const {
    return block_begins_[sequence + 1] - block_begins_[sequence];
  }
  int64_t num_keys() const { return key_begins_.back(); }
  int64_t num_blocks() const { return block_begins_.back(); }

  /// Key blocks [begin, end) of its sequence that a query of the tile can see.
  KeyRange TileBlocks(const QueryTile& tile) const;

  KeyRange KeysInSequence(int64_t position) const {
    return VisibleKeys(input_.branch, input_.spec, position);
  }
  /// Keys of a key block that the query at `position` sees, from the block's first.
  KeyRange KeysInBlock(int64_t position, int64_t block) const {
    const KeyRange keys = KeysInSequence(position);
    const int64_t first = block * block_keys_;
    return {std::clamp<int64_t>(keys.begin - first, 0, block_keys_),
            std::clamp<int64_t>(keys.end - first, 0, block_keys_)};
  }

  /// The first position that sees a key of the block, were all blocks selected.
  int64_t FirstPosition(int64_t block) const;

  bool HasLists() const { return input_.branch == Branch::kSelected; }
  /// Of kSelected.
  void MakeLists(const QueryTile& tile, int kv_head, TileLists& lists) const;
  /// Queries that see a key of the block; `lists` of kSelected, ignored else.
  SeeingQueries Seeing(const QueryTile& tile, int64_t block, const TileLists& lists) const;

  /// Index of a query's row among all of [num_tokens, num_q_heads].
  int64_t Row(const QueryTile& tile, int64_t offset, int head) const {
    const int64_t token = input_.sequences.Begin(tile.sequence) + tile.first + offset;
    return token * input_.heads.num_q_heads + head;
  }

 private:
  AttentionInput<float> input_;
  int block_keys_ = kMaxBlockKeys;
  std::vector<int64_t> key_begins_;    // [num_sequences + 1]
  std::vector<int64_t> block_begins_;  // [num_sequences + 1]
  std::vector<QueryTile> tiles_;
  std::vector<int32_t> all_offsets_;  // 0, 1, 2, …
};

/// Packed keys or values: per KV head and key block of all sequences a matrix of `size` floats.
struct PackedBlocks {
  float* data = nullptr;
  int64_t num_blocks = 0;
  int64_t size = 0;

  float* Block(int kv_head, int64_t block) const {
    return data + (kv_head * num_blocks + block) * size;
  }
};

/// Packs rows [num_keys, num_kv_heads, dim] of `from` into blocks of [block_width, dim], or
/// [dim, block_width] where `transposed`; 0 behind the last key. The memory is `scratch`'s.
PackedBlocks PackBlocks(kernels::cpu::Context& context, const AttentionCall& call,
                        const float* from, int dim, bool transposed,
                        kernels::cpu::Scratch& scratch);

/// Blocks of [block_width, dim] back to rows [num_keys, num_kv_heads, dim].
void UnpackBlocks(kernels::cpu::Context& context, const AttentionCall& call,
                  const PackedBlocks& blocks, int dim, float* to);

/// The forward without a choice of blocks, and with it (of kCompressed).
void ForwardTiles(kernels::cpu::Context& context, const AttentionInput<float>& input,
                  const AttentionOutput<float>& output);
void BackwardTiles(kernels::cpu::Context& context, const AttentionInput<float>& input,
                   const AttentionGradients<float>& gradients);

}  // namespace nsa::kernels::grad::cpu

#endif  // NSA_KERNELS_GRAD_CPU_ATTENTION_CALL_H_
