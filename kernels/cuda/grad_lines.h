#ifndef NSA_KERNELS_CUDA_GRAD_LINES_H_
#define NSA_KERNELS_CUDA_GRAD_LINES_H_

#include <cstdint>

#include "kernels/check.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/elements.h"
#include "kernels/cuda/grad_shape.h"

/// The plain kernels of training, without tensor cores: float32, or what these cannot take. A warp
/// works alone on a line or a key, of any dimensions, with rows of floats in shared memory.
namespace nsa::kernels::cuda {

/// The calling warp's `count` floats of the CTA's shared memory.
NSA_DEVICE float* WarpMemory(SharedArena& arena, int count) {
  return arena.Take<float>(kGradWarps * count) + WarpIndex() * count;
}

/// A launch of a warp for each of `count`, with so many floats of shared memory.
inline LaunchShape PlainShape(const char* name, int64_t count, int64_t floats) {
  NSA_CHECK(count <= INT32_MAX);  // SplitIndex
  return {.name = name,
          .grid_x = CeilDiv(count, kGradWarps),
          .num_threads = kGradThreads,
          .shared_bytes = CeilDiv(kGradWarps * floats, 4) * 16};
}
inline int64_t NumLines(const GradShape& s) { return s.totals.token * s.num_q_heads; }

NSA_DEVICE int64_t ItemOfWarp() { return CtaX() * kGradWarps + WarpIndex(); }

/// By all lanes; others may read it behind a SyncWarp.
template <typename T>
NSA_DEVICE void LoadRow(const T* from, int dims, float* to) {
  for (int i = LaneIndex(); i < dims; i += kWarpSize) to[i] = ToFloat(from[i]);
}

/// A chain in the order of dimensions, by one lane.
template <typename A, typename B>
NSA_DEVICE float Dot(const A* a, const B* b, int dims) {
  float sum = 0;
  for (int i = 0; i < dims; ++i) sum = Fma(ToFloat(a[i]), ToFloat(b[i]), sum);
  return sum;
}

/// The line of a warp, and its query as a line tile of one query.
struct WarpLine {
  bool is_there;
  int64_t row;  // of q and out
  LineTile tile;
};
NSA_DEVICE WarpLine LineOfWarp(const GradShape& s) {
  const int64_t row = ItemOfWarp();
  const Split place = SplitIndex(row, s.num_q_heads);
  if (place.quotient >= s.totals.token) return {false, 0, {}};
  const int sequence = FindSequence(s, &GradPlace::token, place.quotient);
  const auto position = static_cast<int>(place.quotient - s.places[sequence].token);
  const auto kv_head = static_cast<int>(SplitIndex(place.remainder, s.group).quotient);
  return {true, row, LineTileFrom(s, sequence, position, 1, kv_head)};
}

/// Up to 32 consecutive keys, of which a query sees those of `keys`.
struct KeyRun {
  int64_t first_row;  // of k and v
  int64_t num_kv_heads;
  uint32_t keys;

  NSA_DEVICE bool Has(int key) const { return (keys >> key & 1) != 0; }
  NSA_DEVICE int64_t Row(int key) const { return first_row + key * num_kv_heads; }
};

/// Calls body(run) for what the tile's only query sees, rising. For whole warps.
template <typename Body>
NSA_DEVICE void ForEachKeyRun(const GradShape& s, const LineTile& t, Body&& body) {
  const Seen seen = SeenBy(s, t.position);
  for (int tile = NextKeyTile(s, t, t.begin); tile < t.end; tile = NextKeyTile(s, t, tile + 1)) {
    const uint64_t keys = KeyBits(s, t.masks, t.bit, seen, tile);
    for (int half = 0; half < 2; ++half) {
      const auto of_half = static_cast<uint32_t>(keys >> 32 * half);
      if (of_half == 0) continue;
      const int64_t first = t.key + int64_t{tile} * kTileKeys + 32 * half;
      body(KeyRun{KeyRow(s, first, t.kv_head), s.num_kv_heads, of_half});
    }
  }
}

/// Index of the n-th bit of `bits` that is set, from 0 on; there are more than n.
NSA_DEVICE int NthBit(uint64_t bits, int n) {
  int index = 0;
  for (int width = 32; width > 0; width /= 2) {
    const int below = BitCount64(bits & BitRange(0, width));
    if (n < below) continue;
    n -= below;
    index += width;
    bits >>= width;
  }
  return index;
}

/// Up to 32 lines (queries of one mask tile by heads of the group) that see one key.
struct LineRun {
  uint64_t queries;  // bits of the mask tile
  int64_t token;     // the mask tile's first
  int first;         // line of the run's first
  int num_lines;     // of the run
  int kv_head;

  NSA_DEVICE int64_t Row(const GradShape& s, int line) const {
    const Split place = SplitIndex(first + line, s.group);
    return QueryRow(s, token + NthBit(queries, static_cast<int>(place.quotient)), kv_head,
                    static_cast<int>(place.remainder));
  }
};

/// Calls body(run) for all that see key `key` of the tile, rising. For whole warps.
template <typename Body>
NSA_DEVICE void ForEachLineRun(const GradShape& s, const KeyTile& t, int key, Body&& body) {
  const int end_position = t.positions.end;
  KeyTile of_key = t;
  of_key.positions = SeeingPositions(s, t.first + key, t.first + key + 1, end_position);
  const Seen positions = of_key.positions;
  if (positions.begin >= positions.end) return;
  const int keys_per_mask = kTileKeys / s.masks_per_tile;
  const int end = (positions.end - 1) / kMaskQueries + 1;
  for (int tile = positions.begin / kMaskQueries; tile < end; ++tile) {
    const int64_t first = int64_t{tile} * kMaskQueries;
    uint64_t queries = BitRange(positions.begin - first, positions.end - first);
    if (t.masks != nullptr) {
      queries &=
          MasksOfQueries(s, t, tile)[int64_t{t.tile} * s.masks_per_tile + key / keys_per_mask];
    }
    const int num_lines = BitCount64(queries) * s.group;
    for (int line = 0; line < num_lines; line += kWarpSize) {
      const int left = num_lines - line;
      body(LineRun{queries, t.token + first, line, left < kWarpSize ? left : kWarpSize, t.kv_head});
    }
  }
}

}  // namespace nsa::kernels::cuda

#endif  // NSA_KERNELS_CUDA_GRAD_LINES_H_
