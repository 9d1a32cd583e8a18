#include "kernels/cuda/packed_matrix.h"

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <random>
#include <vector>

#include "kernels/affine.h"
#include "tests/kernels/gemm_cases.h"

namespace nsa::kernels::cuda {
namespace {

// What gemm_test.cc shows is that every weight stands where a kernel looks for it; here is the
// rest.

TEST(PackedMatrixTest, FormatsAreThoseOfAffineBlocks) {
  for (const WeightType type : kQuantised) {
    SCOPED_TRACE(FindWeightBlock(type)->name);
    const AffineFormat affine = FindAffineFormat(type);
    const QuantFormat format = QuantFormatOf(type);
    // Bytes with a sign stand for bytes with an offset of 128.
    EXPECT_EQ(format.low_bits == 8 ? 128 : format.offset, affine.symmetric_offset);
    EXPECT_EQ(format.has_minimum, affine.symmetric_offset == 0);
    EXPECT_EQ(kStepColumns / format.scales_per_step, affine.group_size);
    EXPECT_EQ(format.has_supers, FindWeightBlock(type)->num_elements == kSuperColumns);
  }
  for (const WeightType type : kDense) EXPECT_EQ(QuantFormatOf(type).low_bits, 0);
}

TEST(PackedMatrixTest, TakesHardlyMoreThanTheFile) {
  for (const WeightType type : kQuantised) {
    SCOPED_TRACE(FindWeightBlock(type)->name);
    const WeightMatrix w = {nullptr, type, 4096, 4096};
    const auto file_bytes = static_cast<double>(w.num_rows * RowBytes(type, w.num_columns));
    EXPECT_LE(static_cast<double>(PlanPacking({&w, 1}).num_bytes), 1.03 * file_bytes);
  }
  for (const WeightType type : kDense) {
    const WeightMatrix w = {nullptr, type, 4096, 4096};
    EXPECT_EQ(PlanPacking({&w, 1}).num_bytes, w.num_rows * RowBytes(type, w.num_columns));
  }
}

TEST(PackedMatrixTest, NeighboursOfOneTypeAreOnePart) {
  const WeightMatrix sources[] = {{nullptr, WeightType::kQ4_K, 17, 256},
                                  {nullptr, WeightType::kQ4_K, 4, 256},
                                  {nullptr, WeightType::kF16, 0, 256},
                                  {nullptr, WeightType::kQ4_K, 1, 256},
                                  {nullptr, WeightType::kQ6_K, 33, 256}};
  const PackedLayout layout = PlanPacking(sources);
  EXPECT_EQ(layout.num_rows, 55);
  EXPECT_EQ(layout.num_columns, 256);
  EXPECT_EQ(layout.num_blocks, 2 + 3);
  ASSERT_EQ(layout.parts.size(), 2u);
  EXPECT_EQ(layout.parts[0].num_rows, 22);
  EXPECT_EQ(layout.parts[1].first_row, 22);
  EXPECT_EQ(layout.parts[1].offset, 2 * layout.parts[0].block_bytes);
  EXPECT_EQ(OffsetOfBlock(layout, 1), layout.parts[0].block_bytes);
  EXPECT_EQ(OffsetOfBlock(layout, 5), layout.num_bytes);
}

TEST(PackedMatrixTest, PiecesAreTheWhole) {
  std::mt19937 rng(1);
  const Weights a(rng, WeightType::kQ5_1, 37, 96), b(rng, WeightType::kF32, 20, 96);
  const WeightMatrix sources[] = {a.matrix, b.matrix};
  const PackedLayout layout = PlanPacking(sources);
  // Whatever was in the buffer is written over, padding included.
  std::vector<std::byte> whole(static_cast<size_t>(layout.num_bytes), std::byte{0xAB});
  PackBlocks(layout, sources, 0, layout.num_blocks, whole.data());
  std::vector<std::byte> joined;
  for (int64_t block = 0; block < layout.num_blocks; block += 2) {
    const int64_t end = block + 2 < layout.num_blocks ? block + 2 : layout.num_blocks;
    std::vector<std::byte> piece(
        static_cast<size_t>(OffsetOfBlock(layout, end) - OffsetOfBlock(layout, block)));
    PackBlocks(layout, sources, block, end, piece.data());
    joined.insert(joined.end(), piece.begin(), piece.end());
  }
  EXPECT_EQ(joined, whole);
}

}  // namespace
}  // namespace nsa::kernels::cuda
