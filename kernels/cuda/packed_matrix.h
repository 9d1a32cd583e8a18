#ifndef NSA_KERNELS_CUDA_PACKED_MATRIX_H_
#define NSA_KERNELS_CUDA_PACKED_MATRIX_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "kernels/ops/gemm.h"

/// Weight matrices as Gemm reads them: in the order in which mma.sync's lanes hold A, so that a
/// lane reads 16 bytes at a time, a warp 512 in a row, and nothing is shuffled or turned. What
/// follows is the layout; the host fills it (packed_matrix.cu).
///
/// A part is cut into blocks of 16 rows (padded with zeros), each contiguous:
///   units:  [num_units, unit bytes], the columns in order
///   supers: [⌈num_columns / 256⌉, 16 rows] of two float16, formats of 256 columns only: scale, and
///           that of the minima or zero
/// A unit of a quantised type is 64 columns, two steps of 32 (zeros where there is but one):
///   low:   4 bits: [32 lanes, 4 registers], low nibbles step 0, high nibbles step 1
///          8 bits: [2 steps, 32 lanes, 4 registers] of signed bytes
///   high:  bit 4 of q: [32 lanes]; bit 4·step + i of byte b belongs to register i, byte b
///          bits 4 and 5: [2 steps, 32 lanes]; bits 2·i and 2·i + 1 of byte b likewise
///   coefficients: [2 steps, 16 rows], of small blocks the file's float16 scale (and minimum), of
///          blocks of 256 its integers: scale and minimum, or the scales of two times 16 columns
/// A unit of a dense type is 32 columns, two steps of 16: [2 steps, 32 lanes, 4 registers of two
/// elements]; of float32 [2 steps, 2, 32 lanes, 2 registers of two elements].
/// Lane 4·g + t, register i: row g + 8·(i mod 2); bytes: columns 4·t + 16·⌊i/2⌋ and the next three;
/// 16 bits: columns 2·t + 8·⌊i/2⌋ and the next.
namespace nsa::kernels::cuda {

inline constexpr int kBlockRows = 16;
inline constexpr int kStepColumns = 32;
inline constexpr int kSuperColumns = 256;
inline constexpr int kSuperBytes = 4 * kBlockRows;

/// What kernels differ in between quantised types. A weight is scale·(q − offset) + minimum.
struct QuantFormat {
  int low_bits = 0;  // of q in `low`: 4, or 8 with a sign; 0: a dense type
  int high_bits = 0;
  int offset = 0;
  bool has_minimum = false;
  bool has_supers = false;  // scales are integers, times a float16 of 256 columns
  int scales_per_step = 1;  // 2: of 16 columns each
};

constexpr QuantFormat QuantFormatOf(WeightType type) {
  switch (type) {
    case WeightType::kQ4_0:
      return {.low_bits = 4, .offset = 8};
    case WeightType::kQ4_1:
      return {.low_bits = 4, .has_minimum = true};
    case WeightType::kQ5_0:
      return {.low_bits = 4, .high_bits = 1, .offset = 16};
    case WeightType::kQ5_1:
      return {.low_bits = 4, .high_bits = 1, .has_minimum = true};
    case WeightType::kQ8_0:
      return {.low_bits = 8};
    case WeightType::kQ4_K:
      return {.low_bits = 4, .has_minimum = true, .has_supers = true};
    case WeightType::kQ5_K:
      return {.low_bits = 4, .high_bits = 1, .has_minimum = true, .has_supers = true};
    case WeightType::kQ6_K:
      return {
          .low_bits = 4, .high_bits = 2, .offset = 32, .has_supers = true, .scales_per_step = 2};
    default:
      return {};
  }
}

/// Of one unit, in bytes.
struct UnitLayout {
  int columns;
  int high;           // begin of `high`
  int coefficients;   // begin of them
  int bytes_of_each;  // of one row's and step's
  int end;
};

constexpr UnitLayout UnitLayoutOf(WeightType type) {
  const QuantFormat format = QuantFormatOf(type);
  if (format.low_bits == 0) {
    const int bytes = kBlockRows * kStepColumns * (type == WeightType::kF32 ? 4 : 2);
    return {kStepColumns, bytes, bytes, 0, bytes};
  }
  constexpr int kColumns = 2 * kStepColumns;
  const int high = kBlockRows * kColumns * format.low_bits / 8;
  const int coefficients = high + kBlockRows * kColumns * format.high_bits / 8;
  const int each = format.has_minimum && !format.has_supers ? 4 : 2;
  return {kColumns, high, coefficients, each, coefficients + 2 * kBlockRows * each};
}

/// Neighbouring sources of one type: their rows are numbered through.
struct PackedPart {
  WeightType type = WeightType::kF32;
  int64_t first_row = 0;  // in the whole matrix
  int64_t num_rows = 0;
  int64_t num_units = 0;    // of a block
  int64_t block_bytes = 0;  // a multiple of 64
  int64_t first_block = 0;  // in the whole matrix
  int64_t num_blocks = 0;
  int64_t offset = 0;  // of the first block, in bytes
};

/// Where everything stands in one allocation.
struct PackedLayout {
  int64_t num_rows = 0;
  int64_t num_columns = 0;
  int64_t num_blocks = 0;
  int64_t num_bytes = 0;
  std::vector<PackedPart> parts;
};

/// Of matrices with the same number of columns, whose rows stand one after the other. Reads no
/// weights.
PackedLayout PlanPacking(std::span<const WeightMatrix> sources);

/// Bytes before block `block` of the whole matrix; block num_blocks ends it.
int64_t OffsetOfBlock(const PackedLayout& layout, int64_t block);

/// Fills blocks [begin, end) of the whole matrix, which stand together: target[OffsetOfBlock(end) −
/// OffsetOfBlock(begin)], in host memory. So a matrix goes to the device by way of a buffer of any
/// size, and several threads may fill different blocks. `sources` are those of PlanPacking.
void PackBlocks(const PackedLayout& layout, std::span<const WeightMatrix> sources, int64_t begin,
                int64_t end, std::byte* target);

/// A packed matrix in device memory. The struct itself stays on the host.
struct MatrixView {
  PackedLayout layout;
  const std::byte* data = nullptr;  // [layout.num_bytes], a multiple of 16
};
inline MatrixView ViewOf(PackedLayout layout, const std::byte* data) {
  return {std::move(layout), data};
}

}  // namespace nsa::kernels::cuda

#endif  // NSA_KERNELS_CUDA_PACKED_MATRIX_H_
