#ifndef NSA_KERNELS_CUDA_GRAD_SHAPE_H_
#define NSA_KERNELS_CUDA_GRAD_SHAPE_H_

#include <cstdint>

#include "kernels/cuda/device.h"
#include "kernels/grad/grad_attention.h"

/// How the work of kernels/grad is cut on a GPU, whatever the branch: keys of a sequence into key
/// tiles of 64, and queries either into line tiles, of up to 64 lines (a head of the group of one
/// query each), or into mask tiles of 64 queries, for which one word tells who selected what.
namespace nsa::kernels::cuda {

inline constexpr int kTileKeys = 64;
inline constexpr int kTileLines = 64;
inline constexpr int kMaskQueries = 64;
inline constexpr int kGradThreads = 128;
inline constexpr int kGradWarps = kGradThreads / kWarpSize;
static_assert(kGradWarps * 16 == kTileLines && kGradWarps * 16 == kTileKeys);

/// What a sequence begins with, counted over all; one more behind the last tells how many there
/// are.
struct GradPlace {
  int64_t token;
  int64_t key;
  int64_t line_tile;
  int64_t mask_tile;
  int64_t key_tile;
  int64_t mask;  // of one KV head: words [mask tiles, key tiles, masks_per_tile]
};

/// One call. Positions, keys and tiles of one sequence fit 32 bits; offsets have 64.
struct GradShape {
  grad::Branch branch;
  int length;
  int stride;
  int window_size;
  int sel_block_size;
  int num_selected;  // entries of a list
  float scale;
  int group;
  int num_q_heads;
  int num_kv_heads;
  int dim_k;
  int dim_v;
  int tile_queries;    // of a line tile: a power of two, so that it lies in one mask tile
  int masks_per_tile;  // masks of a key tile: 1, or as many as it has sel_blocks
  int num_sequences;
  GradPlace totals;
  const GradPlace* places;  // [num_sequences + 1]
  uint64_t* masks;          // [num_kv_heads, totals.mask]: bit i of a word is query i's
};

/// Keys [begin, end) of its sequence.
struct Seen {
  int begin;
  int end;
};

/// As grad::VisibleKeys.
NSA_DEVICE Seen SeenBy(const GradShape& s, int position) {
  if (s.branch == grad::Branch::kCompressed) {
    if (position + 1 < s.length) return {0, 0};
    return {0, static_cast<int>(SplitIndex(position + 1 - s.length, s.stride).quotient) + 1};
  }
  const int begin = s.branch == grad::Branch::kWindow ? position + 1 - s.window_size : 0;
  return {begin > 0 ? begin : 0, position + 1};
}

/// Positions [begin, end) of those queries that see one of the keys [first, end_key), were all
/// blocks selected.
NSA_DEVICE Seen SeeingPositions(const GradShape& s, int first, int end_key, int num_tokens) {
  if (s.branch == grad::Branch::kCompressed) return {first * s.stride + s.length - 1, num_tokens};
  const int64_t end = int64_t{end_key} - 1 + s.window_size;
  const bool ends = s.branch == grad::Branch::kWindow && end < num_tokens;
  return {first, ends ? static_cast<int>(end) : num_tokens};
}

/// Bits [begin, end) of 64, which may lie beyond them.
NSA_DEVICE uint64_t BitRange(int64_t begin, int64_t end) {
  const int from = begin < 0 ? 0 : static_cast<int>(begin < 64 ? begin : 64);
  const int to = end < 0 ? 0 : static_cast<int>(end < 64 ? end : 64);
  if (from >= to) return 0;
  return ~uint64_t{0} >> (64 - (to - from)) << from;
}

NSA_DEVICE int BitCount64(uint64_t x) {
  return BitCount(static_cast<uint32_t>(x)) + BitCount(static_cast<uint32_t>(x >> 32));
}

/// The sequence that holds the `index`-th of what `begins` counts.
NSA_DEVICE int FindSequence(const GradShape& s, int64_t GradPlace::* begins, int64_t index) {
  int low = 0, high = s.num_sequences - 1;
  while (low < high) {
    const int middle = low + (high - low + 1) / 2;
    if (s.places[middle].*begins <= index) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return low;
}

/// One sequence's sizes.
struct SequenceSizes {
  int num_tokens;
  int num_keys;
  int num_key_tiles;
  int num_mask_tiles;
};
NSA_DEVICE SequenceSizes SizesOf(const GradShape& s, int sequence) {
  const GradPlace &begin = s.places[sequence], &end = s.places[sequence + 1];
  return {static_cast<int>(end.token - begin.token), static_cast<int>(end.key - begin.key),
          static_cast<int>(end.key_tile - begin.key_tile),
          static_cast<int>(end.mask_tile - begin.mask_tile)};
}

/// Masks of one KV head and sequence.
NSA_DEVICE uint64_t* MasksOf(const GradShape& s, int sequence, int kv_head) {
  return s.masks + kv_head * s.totals.mask + s.places[sequence].mask;
}

/// Consecutive queries of one sequence and the heads of one group: line i is head i % group of
/// query i / group.
struct LineTile {
  int64_t token;  // of the first query, of all
  int64_t key;    // the sequence's first, of all
  int num_keys;
  int position;  // of the first query
  int num_queries;
  int num_lines;
  int kv_head;
  const uint64_t* masks;  // of its mask tile: [key tiles, masks_per_tile]; kSelected alone
  int bit;                // of the first query in them
  int begin;              // key tiles that a query may see
  int end;
};

/// Up to `max_queries` queries from `position` on, which lie in one mask tile.
NSA_DEVICE LineTile LineTileFrom(const GradShape& s, int sequence, int position, int max_queries,
                                 int kv_head) {
  const GradPlace& place = s.places[sequence];
  const SequenceSizes sizes = SizesOf(s, sequence);
  LineTile t;
  t.position = position;
  t.token = place.token + position;
  t.key = place.key;
  t.num_keys = sizes.num_keys;
  const int left = sizes.num_tokens - position;
  t.num_queries = left < max_queries ? left : max_queries;
  t.num_lines = t.num_queries * s.group;
  t.kv_head = kv_head;
  t.bit = position % kMaskQueries;
  t.masks = nullptr;
  if (s.branch == grad::Branch::kSelected) {
    t.masks = MasksOf(s, sequence, kv_head) +
              int64_t{position / kMaskQueries} * sizes.num_key_tiles * s.masks_per_tile;
  }
  t.begin = SeenBy(s, position).begin / kTileKeys;
  const int end = SeenBy(s, position + t.num_queries - 1).end;
  t.end = end / kTileKeys + (end % kTileKeys != 0 ? 1 : 0);
  return t;
}

/// Line tile `index` of all, of one KV head.
NSA_DEVICE LineTile LineTileAt(const GradShape& s, int64_t index, int kv_head) {
  const int sequence = FindSequence(s, &GradPlace::line_tile, index);
  const auto tile = static_cast<int>(index - s.places[sequence].line_tile);
  return LineTileFrom(s, sequence, tile * s.tile_queries, s.tile_queries, kv_head);
}

/// The first key tile from `tile` on that a query of the line tile sees; t.end: none. For whole
/// warps, each of which finds the same.
NSA_DEVICE int NextKeyTile(const GradShape& s, const LineTile& t, int tile) {
  if (s.branch != grad::Branch::kSelected) return tile;
  const uint64_t queries = BitRange(t.bit, t.bit + t.num_queries);
  for (int first = tile; first < t.end; first += kWarpSize) {
    const int mine = first + LaneIndex();
    uint64_t seen = 0;
    for (int i = 0; mine < t.end && i < s.masks_per_tile; ++i) {
      seen |= t.masks[int64_t{mine} * s.masks_per_tile + i];
    }
    const uint32_t lanes = Ballot((seen & queries) != 0);
    if (lanes != 0) return first + LowestBit(lanes);
  }
  return t.end;
}

/// Keys of key tile `tile` that a query sees: bit i is key i. `masks` are those of its mask tile,
/// in which the query is bit `bit`.
NSA_DEVICE uint64_t KeyBits(const GradShape& s, const uint64_t* masks, int bit, const Seen& seen,
                            int tile) {
  const int first = tile * kTileKeys;
  const uint64_t range = BitRange(int64_t{seen.begin} - first, int64_t{seen.end} - first);
  if (s.branch != grad::Branch::kSelected || range == 0) return range;
  const int keys = kTileKeys / s.masks_per_tile;
  uint64_t selected = 0;
  for (int i = 0; i < s.masks_per_tile; ++i) {
    const uint64_t word = masks[int64_t{tile} * s.masks_per_tile + i];
    if ((word >> bit & 1) != 0) selected |= BitRange(i * keys, (i + 1) * keys);
  }
  return range & selected;
}

/// A key tile of one KV head, and where its queries are.
struct KeyTile {
  int64_t key;    // its first, of all
  int64_t token;  // the sequence's first, of all
  int first;      // its first key in the sequence
  int num_keys;   // of the tile
  int tile;       // in the sequence
  int kv_head;
  int num_key_tiles;  // of the sequence
  const uint64_t* masks;
  Seen positions;  // of queries that see it, were all blocks selected
};

NSA_DEVICE KeyTile KeyTileAt(const GradShape& s, int64_t index, int kv_head) {
  const int sequence = FindSequence(s, &GradPlace::key_tile, index);
  const GradPlace& place = s.places[sequence];
  const SequenceSizes sizes = SizesOf(s, sequence);
  KeyTile t;
  t.tile = static_cast<int>(index - place.key_tile);
  t.first = t.tile * kTileKeys;
  const int left = sizes.num_keys - t.first;
  t.num_keys = left < kTileKeys ? left : kTileKeys;
  t.key = place.key + t.first;
  t.token = place.token;
  t.kv_head = kv_head;
  t.num_key_tiles = sizes.num_key_tiles;
  t.masks = s.branch == grad::Branch::kSelected ? MasksOf(s, sequence, kv_head) : nullptr;
  t.positions = SeeingPositions(s, t.first, t.first + t.num_keys, sizes.num_tokens);
  return t;
}

/// Masks [key tiles, masks_per_tile] of mask tile `tile`; null where the branch has none.
NSA_DEVICE const uint64_t* MasksOfQueries(const GradShape& s, const KeyTile& t, int tile) {
  if (t.masks == nullptr) return nullptr;
  return t.masks + int64_t{tile} * t.num_key_tiles * s.masks_per_tile;
}

/// Queries of mask tile `tile` that see a key of the key tile.
NSA_DEVICE uint64_t SeeingQueries(const GradShape& s, const KeyTile& t, int tile) {
  const int64_t first = int64_t{tile} * kMaskQueries;
  const uint64_t range = BitRange(t.positions.begin - first, t.positions.end - first);
  if (t.masks == nullptr || range == 0) return range;
  const uint64_t* masks = MasksOfQueries(s, t, tile) + int64_t{t.tile} * s.masks_per_tile;
  uint64_t selecting = 0;
  for (int i = 0; i < s.masks_per_tile; ++i) selecting |= masks[i];
  return range & selecting;
}

/// Row of q, out and of what belongs to them, of [num_tokens, num_q_heads].
NSA_DEVICE int64_t QueryRow(const GradShape& s, int64_t token, int kv_head, int head) {
  return token * s.num_q_heads + kv_head * s.group + head;
}
NSA_DEVICE int64_t KeyRow(const GradShape& s, int64_t key, int kv_head) {
  return key * s.num_kv_heads + kv_head;
}

/// Base-2 exponentials, of which the hardware has one: exp(x) = 2^(x·log₂e).
inline constexpr float kLog2E = 1.44269504f;
inline constexpr float kLn2 = 0.693147181f;

}  // namespace nsa::kernels::cuda

#endif  // NSA_KERNELS_CUDA_GRAD_SHAPE_H_
