#ifndef NSA_KERNELS_CUDA_MMA_BLOCKS_H_
#define NSA_KERNELS_CUDA_MMA_BLOCKS_H_

#include <cstdint>
#include <type_traits>

#include "kernels/cuda/device.h"
#include "kernels/cuda/mma_rows.h"

/// Products of 16 lines and a block of 16 × 16 keys or values by a warp.
namespace nsa::kernels::cuda {

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

}  // namespace nsa::kernels::cuda

#endif  // NSA_KERNELS_CUDA_MMA_BLOCKS_H_
