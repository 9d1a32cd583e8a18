#ifndef NSA_KERNELS_CUDA_MMA_COMPRESSED_VALUES_H_
#define NSA_KERNELS_CUDA_MMA_COMPRESSED_VALUES_H_

#include <cstdint>
#include <type_traits>

#include "kernels/cuda/device.h"
#include "kernels/cuda/elements.h"
#include "kernels/cuda/mma_blocks.h"
#include "kernels/cuda/mma_compressed_scores.h"
#include "kernels/cuda/mma_compressed_tile.h"
#include "kernels/cuda/mma_terms.h"
#include "kernels/cuda/reduce.h"

/// From the scores of a tile of compressed rows to weights, and to their products with values.
namespace nsa::kernels::cuda {

inline constexpr int kWeightTerms = 2;

/// A kernel: elements, blocks of 16 lines in a CTA, and the most dimensions of values, 0 where none
/// are read.
template <typename Element, int kLineBlocks, int kDimsOfValues>
struct CompressedShape {
  using T = Element;
  static constexpr int kBlocks = kLineBlocks;
  static constexpr int kDimsV = kDimsOfValues;
  static constexpr int kQueryTerms =
      NumQueryTerms(std::is_same_v<T, Bf16> ? DType::kBF16 : DType::kF16);
  static constexpr int kSharers = kLineWarps / kBlocks;  // warps of the same lines
  /// Sums over 16 dimensions that a warp has.
  static constexpr int kPairs = (kDimsV / 16 + kSharers - 1) / kSharers;
  using Sums = float[kPairs > 0 ? kPairs : 1][2][4];
};

/// A lane's part of one split of its two lines: sums of weights are over its own columns.
template <typename S>
struct LaneSplit {
  float maximum[2];
  float sum[2];
  typename S::Sums out;  // times kWeightScale
};

template <typename S>
NSA_DEVICE int FirstDim(int pair) {
  return 16 * (WarpIndex() % S::kSharers + pair * S::kSharers);
}

template <typename S>
NSA_DEVICE void ClearSplit(LaneSplit<S>& split) {
  NSA_UNROLL
  for (int half = 0; half < 2; ++half) {
    split.maximum[half] = -Infinity();
    split.sum[half] = 0;
  }
  NSA_UNROLL
  for (int i = 0; i < 8 * S::kPairs; ++i) split.out[i / 8][i / 4 % 2][i % 4] = 0;
}

/// Scores become weights, in the frame of the new maxima. All lanes of a line, of all warps that
/// share it, make the same maxima.
template <typename S>
NSA_DEVICE void ToWeights(TileScores& scores, LaneSplit<S>& split) {
  float frame[2];
  NSA_UNROLL
  for (int half = 0; half < 2; ++half) {
    float maximum = split.maximum[half];
    NSA_UNROLL
    for (int i = 0; i < kTileRows / 4; ++i) {
      maximum = MaxOrNan(scores[i / 2][2 * half + i % 2], maximum);
    }
    maximum = MaxOrNan(ShuffleXor(maximum, 1), maximum);
    maximum = MaxOrNan(ShuffleXor(maximum, 2), maximum);
    frame[half] = maximum == -Infinity() ? 0 : maximum;
    const float before = Exp(split.maximum[half] - frame[half]);
    split.maximum[half] = maximum;
    split.sum[half] *= before;
    NSA_UNROLL
    for (int i = 0; i < 4 * S::kPairs; ++i) {
      split.out[i / 4][i / 2 % 2][2 * half + i % 2] *= before;
    }
  }
  NSA_UNROLL
  for (int n = 0; n < kTileRows / 8; ++n) {
    NSA_UNROLL
    for (int i = 0; i < 4; ++i) {
      scores[n][i] = Exp(scores[n][i] - frame[i / 2]);
      split.sum[i / 2] += scores[n][i];
    }
  }
}

/// Two weights, `low` in the lower half; leaves what they lack.
template <typename T>
NSA_DEVICE uint32_t TakeTerm(float& low, float& high) {
  const T a = FromFloat<T>(low), b = FromFloat<T>(high);
  low -= ToFloat(a);
  high -= ToFloat(b);
  return uint32_t{a.bits} | uint32_t{b.bits} << 16;
}

/// Weights of 16 rows as the left operand of products with their values: sums of 16 lines and 8
/// rows lie in lanes as that does.
template <typename T>
NSA_DEVICE void MakeTerms(const TileScores& weights, int block, Terms<kWeightTerms>& terms) {
  NSA_UNROLL
  for (int i = 0; i < 4; ++i) {
    float low = weights[2 * block + i / 2][i % 2 * 2] * kWeightScale;
    float high = weights[2 * block + i / 2][i % 2 * 2 + 1] * kWeightScale;
    NSA_UNROLL
    for (int term = 0; term < kWeightTerms; ++term) {
      if (term < terms.count) terms.of[term][i] = TakeTerm<T>(low, high);
    }
  }
}

/// Products row by row of queries, each with those compressed rows alone that it reads: 0 times a
/// value that is not finite would be NaN. `first`: the block's first row.
template <typename S>
NSA_DEVICE void MultiplyRowByRow(const RowTile& tile, const RowTileShared<typename S::T>& shared,
                                 const CompressedLine (&lines)[2], int first,
                                 const Terms<kWeightTerms>& terms, const uint32_t (&block)[4],
                                 float (&sums)[2][4]) {
  for (int row = 0; row < tile.num_rows; ++row) {
    const Extent& extent = shared.extents[row];
    const auto clip = [&](int64_t place) {
      const int64_t in_block = place - first;
      return static_cast<uint8_t>(in_block < 0 ? 0 : (in_block > 16 ? 16 : in_block));
    };
    const Stretch seen = {nullptr, 0, 0, clip(extent.begin), clip(extent.end)};
    uint32_t masked[4];
    MaskBlock(block, seen, 0, masked);
    float of_row[2][4];
    NSA_UNROLL
    for (int i = 0; i < 8; ++i) of_row[i / 4][i % 4] = sums[i / 4][i % 4];
    MultiplyBlock<typename S::T>(terms, masked, of_row);
    NSA_UNROLL
    for (int i = 0; i < 8; ++i) {
      if (lines[i % 4 / 2].is_there && lines[i % 4 / 2].row == row) {
        sums[i / 4][i % 4] = of_row[i / 4][i % 4];
      }
    }
  }
}

/// Adds the tile's values times the weights. `is_mixed`: lines may see different rows.
template <typename S>
NSA_DEVICE void AddValues(const SplitAttention& a, const RowTile& tile,
                          const RowTileShared<typename S::T>& shared,
                          const CompressedLine (&lines)[2], int number, bool is_mixed,
                          const TileScores& weights, LaneSplit<S>& split) {
  using T = typename S::T;
  const int dims = a.query.kv.head_dim_v;
  NSA_UNROLL
  for (int b = 0; b < kTileRows / 16; ++b) {
    Terms<kWeightTerms> terms(NumTerms(a.query, kWeightTerms));
    MakeTerms<T>(weights, b, terms);
    NSA_UNROLL
    for (int j = 0; j < S::kPairs; ++j) {
      const int dim = FirstDim<S>(j);
      if (dim >= dims) continue;
      uint32_t block[4];
      LoadMatrix<true>(block, BlockRow(shared.values, Pitch(dims), 16 * b, dim));
      if (is_mixed && Ballot(HasNonFinite<T>(block)) != 0) {
        MultiplyRowByRow<S>(tile, shared, lines, number * kTileRows + 16 * b, terms, block,
                            split.out[j]);
      } else {
        MultiplyBlock<T>(terms, block, split.out[j]);
      }
    }
  }
}

}  // namespace nsa::kernels::cuda

#endif  // NSA_KERNELS_CUDA_MMA_COMPRESSED_VALUES_H_
