#ifndef NSA_KERNELS_CUDA_GRAD_MMA_H_
#define NSA_KERNELS_CUDA_GRAD_MMA_H_

#include <cstdint>

#include "kernels/cuda/device.h"
#include "kernels/cuda/grad_shape.h"
#include "kernels/cuda/mma_rows.h"

/// Rows in shared memory and their products on tensor cores, for training. Rows have kDims columns,
/// zeros behind their own, and Pitch(kDims). A product's sums are the fragments C of one warp: of
/// 16 rows and kTiles · 8 columns, of which a lane holds rows LaneIndex() / 4 and 8 behind.
namespace nsa::kernels::cuda {

/// Starts the copies of `num_rows` rows of `dims` elements; row(i) tells where one is, null: zeros.
/// `any` is an address of global memory.
template <int kDims, typename RowOf>
NSA_DEVICE void CopyRows(Bf16* to, int num_rows, int dims, const Bf16* any, RowOf&& row) {
  constexpr int kPieces = kDims / 8;
  for (int i = ThreadIndex(); i < num_rows * kPieces; i += NumThreads()) {
    const Bf16* from = row(i / kPieces);
    const int column = i % kPieces * 8;
    const bool is_valid = from != nullptr && column < dims;
    CopyAsync(to + i / kPieces * Pitch(kDims) + column, is_valid ? from + column : any, is_valid);
  }
}

/// Starts the copies of key tile `tile`'s rows of k or v.
template <int kDims>
NSA_DEVICE void CopyKeys(const GradShape& s, const LineTile& t, int tile, const Bf16* rows,
                         int dims, Bf16* to) {
  const int first = tile * kTileKeys;
  CopyRows<kDims>(to, kTileKeys, dims, rows, [&](int i) {
    if (first + i >= t.num_keys) return static_cast<const Bf16*>(nullptr);
    return rows + KeyRow(s, t.key + first + i, t.kv_head) * dims;
  });
}

/// Starts the copies of the line tile's rows of q or grad_out.
template <int kDims>
NSA_DEVICE void CopyLines(const GradShape& s, const LineTile& t, const Bf16* rows, int dims,
                          Bf16* to) {
  CopyRows<kDims>(to, kTileLines, dims, rows, [&](int i) {
    if (i >= t.num_lines) return static_cast<const Bf16*>(nullptr);
    const Split line = SplitIndex(i, s.group);
    return rows +
           QueryRow(s, t.token + line.quotient, t.kv_head, static_cast<int>(line.remainder)) * dims;
  });
}

/// sums += 16 rows of `a` · (kTiles · 8 rows of `b`)ᵀ.
template <int kDims, int kTiles>
NSA_DEVICE void MultiplyRows(const Bf16* a, const Bf16* b, float (&sums)[kTiles][4]) {
  NSA_UNROLL
  for (int column = 0; column < kDims; column += 16) {
    uint32_t left[4];
    LoadMatrix<false>(left, BlockRow(a, Pitch(kDims), 0, column));
    NSA_UNROLL
    for (int i = 0; i < kTiles / 2; ++i) {
      uint32_t right[4];
      LoadMatrix<false>(right, BlockRow(b, Pitch(kDims), 16 * i, column));
      const uint32_t even[2] = {right[0], right[2]}, odd[2] = {right[1], right[3]};
      Mma(sums[2 * i], left, even, Bf16{});
      Mma(sums[2 * i + 1], left, odd, Bf16{});
    }
  }
}

/// sums += weights · (kTiles · 8 rows of `b`); weights become bfloat16.
template <int kDims, int kTiles>
NSA_DEVICE void MultiplyWeights(const float (&weights)[kTiles][4], const Bf16* b,
                                float (&sums)[kDims / 8][4]) {
  NSA_UNROLL
  for (int i = 0; i < kTiles / 2; ++i) {
    const auto& w = weights[2 * i];
    const auto& x = weights[2 * i + 1];
    const uint32_t left[4] = {ToBf16Pair(w[0], w[1]), ToBf16Pair(w[2], w[3]),
                              ToBf16Pair(x[0], x[1]), ToBf16Pair(x[2], x[3])};
    NSA_UNROLL
    for (int column = 0; column < kDims; column += 16) {
      uint32_t right[4];
      LoadMatrix<true>(right, BlockRow(b, Pitch(kDims), 16 * i, column));
      const uint32_t even[2] = {right[0], right[1]}, odd[2] = {right[2], right[3]};
      Mma(sums[column / 8], left, even, Bf16{});
      Mma(sums[column / 8 + 1], left, odd, Bf16{});
    }
  }
}

template <int kTiles>
NSA_DEVICE void Clear(float (&sums)[kTiles][4]) {
  NSA_UNROLL
  for (int i = 0; i < 4 * kTiles; ++i) sums[i / 4][i % 4] = 0;
}

/// CTA (i): line tile and KV head i, the last first, as they see most.
NSA_DEVICE LineTile LineTileOfCta(const GradShape& s) {
  const Split place = SplitIndex(CtaX(), s.num_kv_heads);
  return LineTileAt(s, s.totals.line_tile - 1 - place.quotient, static_cast<int>(place.remainder));
}

/// One of a lane's two rows of a line tile.
struct LaneLine {
  bool is_there;
  int64_t row;  // of q and out
  int bit;      // in its mask tile
  Seen seen;
};
NSA_DEVICE LaneLine LaneLineAt(const GradShape& s, const LineTile& t, int half) {
  const int line = WarpIndex() * 16 + LaneIndex() / 4 + 8 * half;
  if (line >= t.num_lines) return {false, 0, 0, {0, 0}};
  const Split place = SplitIndex(line, s.group);
  const auto query = static_cast<int>(place.quotient);
  return {true, QueryRow(s, t.token + query, t.kv_head, static_cast<int>(place.remainder)),
          t.bit + query, SeenBy(s, t.position + query)};
}

/// Keys that the line sees of those in the lane's columns: bit 8·n is its first in tile n of eight.
NSA_DEVICE uint64_t LaneKeys(const GradShape& s, const LineTile& t, const LaneLine& line,
                             int tile) {
  return KeyBits(s, t.masks, line.bit, line.seen, tile) >> 2 * (LaneIndex() % 4);
}
NSA_DEVICE bool HasKey(uint64_t lane_keys, int n, int i) {
  return (lane_keys >> (8 * n + i % 2) & 1) != 0;
}

/// Whether a line of the warp sees a key.
NSA_DEVICE bool WarpSees(const uint64_t (&lane_keys)[2]) {
  // Columns of the other lanes may be those that are seen.
  return Ballot((lane_keys[0] | lane_keys[1]) != 0) != 0;
}

/// The lane's sums times `factor` of each line, as `dims` elements of its row.
template <int kDims>
NSA_DEVICE void StoreLines(const LaneLine (&lines)[2], const float (&factors)[2],
                           const float (&sums)[kDims / 8][4], int dims, Bf16* rows) {
  NSA_UNROLL
  for (int half = 0; half < 2; ++half) {
    if (!lines[half].is_there) continue;
    auto* pairs = reinterpret_cast<uint32_t*>(rows + lines[half].row * dims);
    NSA_UNROLL
    for (int n = 0; n < kDims / 8; ++n) {
      if (8 * n >= dims) continue;
      pairs[4 * n + LaneIndex() % 4] =
          ToBf16Pair(sums[n][2 * half] * factors[half], sums[n][2 * half + 1] * factors[half]);
    }
  }
}

/// Calls body(integral constants of dim_k and dim_v) with sizes that hold both.
template <int kDims>
struct DimsOf {
  static constexpr int kValue = kDims;
};
template <typename Body>
void WithTensorDims(int dim_k, int dim_v, Body&& body) {
  if (dim_k <= 64 && dim_v <= 64) return body(DimsOf<64>{}, DimsOf<64>{});
  if (dim_k <= 128) return body(DimsOf<128>{}, DimsOf<128>{});
  body(DimsOf<192>{}, DimsOf<128>{});
}

/// Bytes of `rows` rows in shared memory.
constexpr int64_t RowBytes(int rows, int dims) { return int64_t{2} * rows * Pitch(dims); }

}  // namespace nsa::kernels::cuda

#endif  // NSA_KERNELS_CUDA_GRAD_MMA_H_
