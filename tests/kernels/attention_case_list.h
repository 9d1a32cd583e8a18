#ifndef NSA_TESTS_KERNELS_ATTENTION_CASE_LIST_H_
#define NSA_TESTS_KERNELS_ATTENTION_CASE_LIST_H_

#include <cstdint>
#include <ostream>
#include <string>
#include <vector>

#include "kernels/ops/attention.h"
#include "kernels/ops/cmp_pool.h"
#include "kernels/tensor.h"

/// The shared case list of the attention operators: shapes, types, windows, blocks, clusters.
namespace nsa::kernels {

/// Consecutive rows of one sequence, whose cache holds all tokens up to the last row.
struct SequenceRows {
  int64_t position;
  int32_t num_rows;
};

struct AttentionCase {
  std::string name;
  DType dtype = DType::kF32;
  int num_kv_heads = 2;
  int group = 3;
  int head_dim_k = 64;
  int head_dim_v = 64;
  int rotary_dim = 64;
  int length = 32;
  int stride = 16;
  int sel_block_size = 64;
  std::vector<SequenceRows> sequences = {{0, 70}, {500, 90}, {37, 0}, {1200, 2}};
  PooledKeys pooled_keys = PooledKeys::kRotated;
  bool compressed_values = true;
  bool absolute_rows = false;  // compressed keys in the frame of the sequence
  int num_clusters = 0;        // > 0: compressed rows are clusters, without values
  AttentionPrecision precision = AttentionPrecision::kFloat32;

  int CmpRowsPerPage() const { return num_clusters > 0 ? num_clusters : kPageSize / stride; }
  DType CmpDtype() const {
    if (dtype == DType::kF32) return dtype;
    if (num_clusters > 0) return DType::kInt8;
    return SizeOf(dtype) == 1 ? DType::kF16 : dtype;
  }
};

inline void PrintTo(const AttentionCase& c, std::ostream* os) { *os << c.name; }

/// Groups, head dimensions and types.
inline std::vector<AttentionCase> ShapeCases() {
  return {
      {.name = "SmolLm", .dtype = DType::kBF16, .num_kv_heads = 3},
      {.name = "OneHead",
       .num_kv_heads = 1,
       .group = 1,
       .head_dim_k = 32,
       .head_dim_v = 32,
       .rotary_dim = 32,
       .sequences = {{0, 1}, {1, 1}, {15, 2}, {30, 3}, {62, 4}, {126, 67}, {1023, 2}}},
      {.name = "Group2F16NoRotation",
       .dtype = DType::kF16,
       .group = 2,
       .head_dim_k = 80,
       .head_dim_v = 80,
       .rotary_dim = 0},
      {.name = "Group4PartlyRotated",
       .dtype = DType::kBF16,
       .num_kv_heads = 1,
       .group = 4,
       .head_dim_k = 96,
       .head_dim_v = 96,
       .rotary_dim = 48,
       .pooled_keys = PooledKeys::kUnrotated},
      {.name = "Int8", .dtype = DType::kInt8, .num_kv_heads = 3},
      {.name = "Int8OddDims",
       .dtype = DType::kInt8,
       .num_kv_heads = 1,
       .group = 5,
       .head_dim_k = 37,
       .head_dim_v = 21,
       .rotary_dim = 18,
       .pooled_keys = PooledKeys::kUnrotated},
      {.name = "Fp8", .dtype = DType::kF8E4M3, .num_kv_heads = 1},
      {.name = "Fp8OddDims",
       .dtype = DType::kF8E4M3,
       .num_kv_heads = 1,
       .group = 2,
       .head_dim_k = 37,
       .head_dim_v = 21,
       .rotary_dim = 18},
      {.name = "Group7Wide",
       .num_kv_heads = 1,
       .group = 7,
       .head_dim_k = 256,
       .head_dim_v = 256,
       .rotary_dim = 256,
       .length = 64,
       .stride = 64,
       .sel_block_size = 64,
       .sequences = {{60, 10}, {640, 9}}},
      {.name = "Group16PaperDims",
       .dtype = DType::kBF16,
       .num_kv_heads = 1,
       .group = 16,
       .head_dim_k = 192,
       .head_dim_v = 128,
       .rotary_dim = 64,
       .sequences = {{20, 20}, {700, 6}},
       .pooled_keys = PooledKeys::kUnrotated},
  };
}

/// Sizes of windows and blocks.
inline std::vector<AttentionCase> BlockCases() {
  return {
      {.name = "ShortBlocks",
       .dtype = DType::kF16,
       .group = 2,
       .length = 16,
       .stride = 16,
       .sel_block_size = 16},
      {.name = "LongBlocks", .dtype = DType::kBF16, .group = 1, .sel_block_size = 128},
      {.name = "Stride8",
       .num_kv_heads = 1,
       .head_dim_k = 32,
       .head_dim_v = 128,
       .rotary_dim = 32,
       .length = 8,
       .stride = 8,
       .sel_block_size = 16},
      {.name = "LongWindows",
       .num_kv_heads = 1,
       .group = 2,
       .length = 128,
       .stride = 32,
       .sel_block_size = 32,
       .sequences = {{0, 260}, {900, 5}}},
      {.name = "Stride1OddDims",
       .num_kv_heads = 2,
       .group = 1,
       .head_dim_k = 21,
       .head_dim_v = 37,
       .rotary_dim = 10,
       .length = 4,
       .stride = 1,
       .sel_block_size = 8,
       .sequences = {{0, 5}, {120, 20}}},
      {.name = "Stride4OddDims",
       .num_kv_heads = 1,
       .group = 5,
       .head_dim_k = 18,
       .head_dim_v = 7,
       .rotary_dim = 6,
       .length = 12,
       .stride = 4,
       .sel_block_size = 32,
       .sequences = {{1, 3}, {130, 70}}},
  };
}

/// Compressed keys in the frame of the sequence.
inline std::vector<AttentionCase> AbsoluteCases() {
  return {
      {.name = "SmolLmAbsolute",
       .dtype = DType::kBF16,
       .num_kv_heads = 3,
       .sequences = {{0, 70}, {4100, 70}, {37, 0}, {9000, 2}},
       .absolute_rows = true},
      {.name = "AbsoluteUnrotatedOddDims",
       .num_kv_heads = 1,
       .group = 5,
       .head_dim_k = 37,
       .head_dim_v = 21,
       .rotary_dim = 18,
       .pooled_keys = PooledKeys::kUnrotated,
       .absolute_rows = true},
      {.name = "AbsoluteLongWindows",
       .dtype = DType::kF16,
       .num_kv_heads = 1,
       .group = 7,
       .length = 128,
       .stride = 32,
       .sequences = {{0, 260}, {4090, 9}},
       .absolute_rows = true},
  };
}

/// Rows that are clusters: fewer, as many as and more than a vector has lanes.
inline std::vector<AttentionCase> ClusterCases() {
  return {
      {.name = "SmolLmClusters", .dtype = DType::kF16, .num_kv_heads = 3, .num_clusters = 4},
      {.name = "OneCluster", .group = 1, .num_clusters = 1},
      {.name = "SixteenClusters", .group = 4, .num_clusters = 16},
      {.name = "ClustersOfBf16", .dtype = DType::kBF16, .group = 2, .num_clusters = 8},
      {.name = "ClustersOfOddDims",
       .dtype = DType::kBF16,
       .num_kv_heads = 1,
       .group = 5,
       .head_dim_k = 18,
       .head_dim_v = 7,
       .rotary_dim = 6,
       .num_clusters = 2},
      {.name = "ManyClusters",
       .dtype = DType::kF16,
       .num_kv_heads = 1,
       .group = 7,
       .head_dim_k = 128,
       .head_dim_v = 128,
       .rotary_dim = 128,
       .num_clusters = 32},
      {.name = "ClustersOfInt8", .dtype = DType::kInt8, .group = 3, .num_clusters = 8},
      {.name = "Int8OneClusterOddDim",
       .dtype = DType::kF16,
       .num_kv_heads = 1,
       .group = 2,
       .head_dim_k = 37,
       .head_dim_v = 21,
       .rotary_dim = 18,
       .sequences = {{0, 70}, {4200, 9}, {9000, 1}},
       .num_clusters = 1},
      {.name = "EightExactClusters", .num_kv_heads = 1, .group = 2, .num_clusters = 8},
      {.name = "ClusterPerKey", .num_kv_heads = 1, .rotary_dim = 0, .num_clusters = 64},
  };
}

/// Queries and weights of 16 bits.
inline std::vector<AttentionCase> RoundedCases() {
  constexpr auto kRounded = AttentionPrecision::kSixteenBits;
  return {
      {.name = "RoundedF16", .dtype = DType::kF16, .precision = kRounded},
      {.name = "RoundedBf16PaperDims",
       .dtype = DType::kBF16,
       .num_kv_heads = 1,
       .group = 16,
       .head_dim_k = 192,
       .head_dim_v = 128,
       .rotary_dim = 64,
       .absolute_rows = true,
       .precision = kRounded},
      {.name = "RoundedFp8",
       .dtype = DType::kF8E4M3,
       .num_kv_heads = 1,
       .group = 7,
       .precision = kRounded},
  };
}

/// Of a GPU's results, relative to the largest. A query's elements are independent here, and their
/// errors add up to about one of them, 2⁻⁹ or 2⁻¹²; a weight's are its own.
inline float ToleranceOf(const AttentionCase& c) {
  if (c.precision == AttentionPrecision::kFloat32) return 2e-5f;
  return c.dtype == DType::kBF16 ? 0x1p-8f : 0x1p-11f;
}

inline std::vector<AttentionCase> AttentionCases() {
  std::vector<AttentionCase> cases = ShapeCases();
  for (const AttentionCase& c : BlockCases()) cases.push_back(c);
  for (const AttentionCase& c : AbsoluteCases()) cases.push_back(c);
  return cases;
}

}  // namespace nsa::kernels

#endif  // NSA_TESTS_KERNELS_ATTENTION_CASE_LIST_H_
