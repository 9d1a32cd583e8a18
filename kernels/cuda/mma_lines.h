#ifndef NSA_KERNELS_CUDA_MMA_LINES_H_
#define NSA_KERNELS_CUDA_MMA_LINES_H_

#include <cstdint>
#include <type_traits>

#include "kernels/cuda/device.h"
#include "kernels/cuda/elements.h"
#include "kernels/cuda/mma_blocks.h"
#include "kernels/cuda/mma_rows.h"
#include "kernels/cuda/mma_terms.h"
#include "kernels/cuda/mma_tile.h"
#include "kernels/cuda/reduce.h"

/// A warp's block of 16 lines and a tile of 64 keys and values in shared memory: scores, which lie
/// in registers as the left operand of the next product does, weights with a maximum that grows
/// from tile to tile, and sums of values (FlashAttention-2's arrangement). Where several warps
/// share a block, each scores some of a tile's rows and sums some of the values' dimensions; all
/// make the same maxima and weights, so that an element's chain is the same both ways.
namespace nsa::kernels::cuda {

inline constexpr int kTileRows = 64;
inline constexpr int kSplitTiles = kSplitRows / kTileRows;
inline constexpr int kScorePitch = kTileRows + 8;
inline constexpr int kWeightTerms = 2;

/// Terms that float32 queries have.
constexpr int NumQueryTerms(DType dtype) { return dtype == DType::kBF16 ? 3 : 2; }

/// A kernel: what its tensor cores multiply, blocks of 16 lines in a CTA, and the most dimensions
/// of values, 0 where none are read.
template <typename Element, int kLineBlocks, int kDimsOfValues>
struct LineShape {
  using T = Element;
  static constexpr int kBlocks = kLineBlocks;
  static constexpr int kDimsV = kDimsOfValues;
  static constexpr int kNumThreads = kWarpSize * NumWarps(kBlocks);
  static constexpr int kQueryTerms =
      NumQueryTerms(std::is_same_v<T, Bf16> ? DType::kBF16 : DType::kF16);
  static constexpr int kSharers = NumWarps(kBlocks) / kBlocks;  // warps of the same lines
  /// Of 16 rows of a tile, that a warp scores.
  static constexpr int kKeyBlocks = kTileRows / 16 / kSharers;
  /// Sums over 16 dimensions that a warp has.
  static constexpr int kPairs = (kDimsV / 16 + kSharers - 1) / kSharers;
  using Sums = float[kPairs > 0 ? kPairs : 1][2][4];

  /// The warp's block of lines, and its place among those that share it.
  NSA_DEVICE static int Block() { return WarpIndex() / kSharers; }
  NSA_DEVICE static int Part() { return WarpIndex() % kSharers; }
  /// The first of the 16 dimensions of a pair.
  NSA_DEVICE static int FirstDim(int pair) { return 16 * (Part() + pair * kSharers); }
};

/// Calls body(shape) with the LineShape that has so many blocks.
template <typename T, int kDimsV, typename Body>
void WithLineShape(int num_blocks, Body&& body) {
  switch (num_blocks) {
    case 1:
      return body(LineShape<T, 1, kDimsV>());
    case 2:
      return body(LineShape<T, 2, kDimsV>());
    case 4:
      return body(LineShape<T, 4, kDimsV>());
    default:
      body(LineShape<T, kMaxLineBlocks, kDimsV>());
  }
}

/// The lane's line `half`, of the row whose splits are `splits_of(row)`.
template <typename S, typename SplitsOfRow>
NSA_DEVICE TileLine TileLineAt(const RowTile& tile, int half, SplitsOfRow&& splits_of) {
  const int line = S::Block() * kMmaLines + LaneIndex() / 4 + 8 * half;
  if (line >= tile.num_lines) return {false, line, 0, 0, 0};
  const auto row = static_cast<int>(SplitIndex(line, tile.first.num_heads).quotient);
  const Extent splits = splits_of(row);
  return {true, line, row, static_cast<int>(splits.begin), static_cast<int>(splits.end)};
}

/// Whether the warp's block has lines: a segment's last rows may be few.
template <typename S>
NSA_DEVICE bool HasLines(const RowTile& tile) {
  return S::Block() * kMmaLines < tile.num_lines;
}

/// What a lane has of 16 lines and a tile's rows: sums of mma.m16n8k16.
using TileScores = float[kTileRows / 8][4];

/// Of element `i` of part `n`: its row in the tile.
NSA_DEVICE int PlaceInTile(int n, int i) { return 8 * n + LaneIndex() % 4 * 2 + i % 2; }

/// A lane's part of one split of its two lines: sums of weights are over its own columns.
template <typename S>
struct LaneSplit {
  float maximum[2];
  float sum[2];
  typename S::Sums out;  // times kWeightScale
};

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

/// Adds the products of the warp's 16 lines, whose queries have terms `term_size` apart, and those
/// blocks of 16 keys that it scores.
template <typename S>
NSA_DEVICE void MultiplyKeys(const AttentionQuery& query, const typename S::T* terms, int term_size,
                             const typename S::T* keys, float (&sums)[S::kKeyBlocks][2][4]) {
  using T = typename S::T;
  const int dims = query.kv.head_dim_k;
  const T* queries = terms + S::Block() * kMmaLines * Pitch(dims);
  NSA_UNROLL_BY(1)
  for (int k = 0; k < dims; k += 16) {
    Terms<S::kQueryTerms> of_lines(NumTerms(query, S::kQueryTerms));
    LoadTerms(queries, term_size, Pitch(dims), k, of_lines);
    NSA_UNROLL
    for (int b = 0; b < S::kKeyBlocks; ++b) {
      uint32_t block[4];
      LoadMatrix<true>(block,
                       BlockRow(keys, Pitch(kTileRows), k, 16 * (S::Part() + b * S::kSharers)));
      MultiplyBlock<T>(of_lines, block, sums[b]);
    }
  }
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

/// Rows of a tile, [begin, end).
struct TileRange {
  int begin;
  int end;

  NSA_DEVICE bool Holds(int place) const { return place >= begin && place < end; }
};

/// Products row by row of queries, each with those rows of the tile alone that it reads: 0 times a
/// value that is not finite would be NaN. `first`: the block's first row.
template <typename S, typename Line, typename SeenBy>
NSA_DEVICE void MultiplyRowByRow(const RowTile& tile, const Line (&lines)[2], int first,
                                 const Terms<kWeightTerms>& terms, const uint32_t (&block)[4],
                                 SeenBy&& seen_by, float (&sums)[2][4]) {
  NSA_UNROLL_BY(1)
  for (int row = 0; row < tile.num_rows; ++row) {
    const bool is_ours[2] = {lines[0].is_there && lines[0].row == row,
                             lines[1].is_there && lines[1].row == row};
    if (Ballot(is_ours[0] || is_ours[1]) == 0) continue;
    const TileRange seen = seen_by(row);
    uint32_t masked[4];
    NSA_UNROLL
    for (int i = 0; i < 4; ++i) {
      const int place = first + i % 2 * 8 + LaneIndex() % 4 * 2;
      const uint32_t low = seen.Holds(place) ? 0xFFFF : 0;
      const uint32_t high = seen.Holds(place + 1) ? 0xFFFF0000 : 0;
      masked[i] = block[i] & (low | high);
    }
    float of_row[2][4];
    NSA_UNROLL
    for (int i = 0; i < 8; ++i) of_row[i / 4][i % 4] = sums[i / 4][i % 4];
    MultiplyBlock<typename S::T>(terms, masked, of_row);
    NSA_UNROLL
    for (int i = 0; i < 8; ++i) {
      if (is_ours[i % 4 / 2]) sums[i / 4][i % 4] = of_row[i / 4][i % 4];
    }
  }
}

/// Adds the tile's values times the weights. Where lines of the warp may see different rows
/// (`is_mixed`), those that `seen_by(row)` says.
template <typename S, typename Line, typename SeenBy>
NSA_DEVICE void AddValues(const AttentionQuery& query, const RowTile& tile, const Line (&lines)[2],
                          const typename S::T* values, bool is_mixed, const TileScores& weights,
                          SeenBy&& seen_by, LaneSplit<S>& split) {
  using T = typename S::T;
  const int dims = query.kv.head_dim_v;
  NSA_UNROLL
  for (int b = 0; b < kTileRows / 16; ++b) {
    Terms<kWeightTerms> terms(NumTerms(query, kWeightTerms));
    MakeTerms<T>(weights, b, terms);
    NSA_UNROLL
    for (int j = 0; j < S::kPairs; ++j) {
      const int dim = S::FirstDim(j);
      if (dim >= dims) continue;
      uint32_t block[4];
      LoadMatrix<true>(block, BlockRow(values, Pitch(dims), 16 * b, dim));
      if (is_mixed && Ballot(HasNonFinite<T>(block)) != 0) {
        MultiplyRowByRow<S>(tile, lines, 16 * b, terms, block, seen_by, split.out[j]);
      } else {
        MultiplyBlock<T>(terms, block, split.out[j]);
      }
    }
  }
}

/// The split's sums of weights over all columns.
template <typename S>
NSA_DEVICE void SumColumns(LaneSplit<S>& split) {
  NSA_UNROLL
  for (int half = 0; half < 2; ++half) {
    split.sum[half] += ShuffleXor(split.sum[half], 1);
    split.sum[half] += ShuffleXor(split.sum[half], 2);
  }
}

}  // namespace nsa::kernels::cuda

#endif  // NSA_KERNELS_CUDA_MMA_LINES_H_
