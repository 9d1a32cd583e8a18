#ifndef NSA_KERNELS_CUDA_MMA_BLOCKS_H_
#define NSA_KERNELS_CUDA_MMA_BLOCKS_H_

#include <cstdint>
#include <type_traits>

#include "kernels/cuda/device.h"
#include "kernels/cuda/mma_rows.h"
#include "kernels/cuda/mma_tile.h"
#include "kernels/cuda/mma_walk.h"

/// Products of 16 lines and a block of 16 × 16 keys or values by a warp.
namespace nsa::kernels::cuda {

/// Of the 16 lines that the calling warp works on.
NSA_DEVICE int FirstLine() { return WarpIndex() / kLineWarps * kMmaLines; }

/// Terms of 16 × 16 numbers as a lane has them for Mma: `count` of kMost, the same for all lanes.
template <int kMost>
struct Terms {
  NSA_DEVICE explicit Terms(int number) : count(number) {}

  int count;
  uint32_t of[kMost][4];
};

/// Columns [column, column + 16) of 16 lines, whose terms are `step` elements apart.
template <typename T, int kMost>
NSA_DEVICE void LoadTerms(const T* lines, int step, int pitch, int column, Terms<kMost>& terms) {
  NSA_UNROLL
  for (int term = 0; term < kMost; ++term) {
    if (term >= terms.count) return;
    LoadMatrix<false>(terms.of[term], BlockRow(lines + term * step, pitch, 0, column));
  }
}

/// sums += terms · block, where block is [16, 16].
template <typename T, int kMost>
NSA_DEVICE void MultiplyBlock(const Terms<kMost>& terms, const uint32_t (&block)[4],
                              float (&sums)[2][4]) {
  const uint32_t left[2] = {block[0], block[1]}, right[2] = {block[2], block[3]};
  NSA_UNROLL
  for (int term = kMost - 1; term >= 0; --term) {
    if (term >= terms.count) continue;
    Mma(sums[0], terms.of[term], left, T{});
    Mma(sums[1], terms.of[term], right, T{});
  }
}

template <typename T>
NSA_DEVICE bool HasNonFinite(const uint32_t (&block)[4]) {
  constexpr uint32_t kExponent = std::is_same_v<T, Bf16> ? 0x7F80 : 0x7C00;
  bool has = false;
  NSA_UNROLL
  for (const uint32_t two : block) {
    has = has || (two & kExponent) == kExponent || (two >> 16 & kExponent) == kExponent;
  }
  return has;
}

/// The lane's elements of a block of values, without those of tokens that the row does not read.
/// `first`: the block's first token.
NSA_DEVICE void MaskBlock(const uint32_t (&block)[4], const Stretch& stretch, int first,
                          uint32_t (&masked)[4]) {
  NSA_UNROLL
  for (int i = 0; i < 4; ++i) {
    const int token = first + i % 2 * 8 + LaneIndex() % 4 * 2;
    const uint32_t low = stretch.Holds(token) ? 0xFFFF : 0;
    const uint32_t high = stretch.Holds(token + 1) ? 0xFFFF0000 : 0;
    masked[i] = block[i] & (low | high);
  }
}

/// The same as MultiplyBlock row by row, each with the tokens alone that it reads: 0 times a value
/// that is not finite would be NaN.
template <typename T>
NSA_DEVICE void MultiplyByRows(const SplitAttention& a, const RowTile& tile,
                               const TileShared<T>& shared, const TilePage& page, int first,
                               const Terms<kMaxTerms>& terms, const uint32_t (&block)[4],
                               float (&sums)[2][4]) {
  const int first_line = FirstLine();
  const int end = first_line + kMmaLines < tile.num_lines ? first_line + kMmaLines : tile.num_lines;
  for (int row = shared.row_of_line[first_line]; row <= shared.row_of_line[end - 1]; ++row) {
    uint32_t masked[4];
    MaskBlock(block, StretchOfRow(a, shared, page, row), first, masked);
    float of_row[2][4];
    NSA_UNROLL
    for (int i = 0; i < 8; ++i) of_row[i / 4][i % 4] = sums[i / 4][i % 4];
    MultiplyBlock<T>(terms, masked, of_row);
    NSA_UNROLL
    for (int i = 0; i < 8; ++i) {
      const int line = first_line + LaneIndex() / 4 + i % 4 / 2 * 8;
      const bool is_ours = line < end && shared.row_of_line[line] == row;
      if (is_ours) sums[i / 4][i % 4] = of_row[i / 4][i % 4];
    }
  }
}

}  // namespace nsa::kernels::cuda

#endif  // NSA_KERNELS_CUDA_MMA_BLOCKS_H_
