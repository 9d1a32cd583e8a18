#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

#include "kernels/affine.h"
#include "kernels/check.h"
#include "kernels/cuda/device_types.h"
#include "kernels/cuda/packed_matrix.h"
#include "kernels/cuda/quant_elements.h"

namespace nsa::kernels::cuda {
namespace {

/// Where an element of a fragment stands: lane, register, and place in the register.
struct FragmentPlace {
  int lane;
  int index;
  int element;
};

/// Of row r and column k of one mma.sync's A, kElements of which are a register of 32 bits.
template <int kElements>
FragmentPlace PlaceOf(int r, int k) {
  constexpr int kHalf = 4 * kElements;  // columns of registers 0 and 1
  return {r % 8 * 4 + k % kHalf / kElements, k / kHalf * 2 + r / 8, k % kElements};
}

/// Puts q of row r and column c, 0 ≤ c < 64, into a unit of zeros.
void PutQuantised(const QuantFormat& format, const UnitLayout& unit, int r, int c, uint8_t q,
                  uint8_t* target) {
  const int step = c / kStepColumns;
  const FragmentPlace at = PlaceOf<4>(r, c % kStepColumns);
  const int byte = at.lane * 16 + at.index * 4 + at.element;
  if (format.low_bits == 8) {
    target[step * unit.high / 2 + byte] = q ^ 0x80;  // as affine.cc, whose q have no sign
    return;
  }
  target[byte] |= static_cast<uint8_t>((q & 0x0F) << (4 * step));
  if (format.high_bits == 1) {
    target[unit.high + at.lane * 4 + at.element] |=
        static_cast<uint8_t>(q >> 4 << (4 * step + at.index));
  } else if (format.high_bits == 2) {
    target[unit.high + step * 4 * kWarpSize + at.lane * 4 + at.element] |=
        static_cast<uint8_t>(q >> 4 << (2 * at.index));
  }
}

/// The coefficients of row r and step `step` of a unit, from the file's block, in which the step is
/// number `step_of_block`.
void PutCoefficients(WeightType type, const UnitLayout& unit, int r, int step, int step_of_block,
                     const uint8_t* source, uint8_t* target) {
  uint8_t* coefficients = target + unit.coefficients + (step * kBlockRows + r) * unit.bytes_of_each;
  if (type == WeightType::kQ6_K) {
    std::memcpy(coefficients, source + 192 + 2 * step_of_block, 2);
  } else if (QuantFormatOf(type).has_supers) {
    const SmallScales scales = SmallScalesOf(source + 4, step_of_block);
    coefficients[0] = static_cast<uint8_t>(scales.scale);
    coefficients[1] = static_cast<uint8_t>(scales.minimum);
  } else {
    std::memcpy(coefficients, source, static_cast<size_t>(unit.bytes_of_each));
  }
}

/// Row r of a block, from the file's row.
void PackQuantisedRow(const PackedPart& part, const uint8_t* source, int64_t num_columns, int r,
                      uint8_t* block) {
  const QuantFormat format = QuantFormatOf(part.type);
  const UnitLayout unit = UnitLayoutOf(part.type);
  const WeightBlock& file_block = *FindWeightBlock(part.type);
  uint8_t* supers = block + part.num_units * unit.end;
  AffineBlock affine;
  for (int64_t first = 0; first < num_columns; first += file_block.num_elements) {
    UnpackAffine(part.type, source, affine);
    for (int i = 0; i < file_block.num_elements; ++i) {
      const int64_t column = first + i;
      PutQuantised(format, unit, r, static_cast<int>(column % unit.columns), affine.q[i],
                   block + column / unit.columns * unit.end);
    }
    for (int i = 0; i < file_block.num_elements; i += kStepColumns) {
      const int64_t step = (first + i) / kStepColumns;
      PutCoefficients(part.type, unit, r, static_cast<int>(step % 2), i / kStepColumns, source,
                      block + step / 2 * unit.end);
    }
    if (format.has_supers) {
      const bool is_q6 = part.type == WeightType::kQ6_K;
      std::memcpy(supers + first / kSuperColumns * kSuperBytes + r * 4, source + (is_q6 ? 208 : 0),
                  is_q6 ? 2 : 4);
    }
    source += file_block.num_bytes;
  }
}

void PackDenseRow(const PackedPart& part, const uint8_t* source, int64_t num_columns, int r,
                  uint8_t* block) {
  const UnitLayout unit = UnitLayoutOf(part.type);
  const int size = part.type == WeightType::kF32 ? 4 : 2;
  for (int64_t c = 0; c < num_columns; ++c) {
    const auto in_unit = static_cast<int>(c % unit.columns);
    const FragmentPlace at = PlaceOf<2>(r, in_unit % 16);
    // A lane reads 16 bytes at a time: four registers' elements of 16 bits, or two's of 32.
    const int registers = 8 / size;
    const int in_step = at.index / registers * 16 * kWarpSize + at.lane * 16 +
                        (at.index % registers * 2 + at.element) * size;
    std::memcpy(block + c / unit.columns * unit.end + in_unit / 16 * unit.end / 2 + in_step,
                source + c * size, static_cast<size_t>(size));
  }
}

/// Row `row` of all sources together.
const uint8_t* FindRow(std::span<const WeightMatrix> sources, int64_t row) {
  size_t i = 0;
  while (row >= sources[i].num_rows) row -= sources[i++].num_rows;
  return static_cast<const uint8_t*>(sources[i].data) +
         row * RowBytes(sources[i].type, sources[i].num_columns);
}

void PackBlock(const PackedLayout& layout, const PackedPart& part,
               std::span<const WeightMatrix> sources, int64_t block, uint8_t* target) {
  std::memset(target, 0, static_cast<size_t>(part.block_bytes));
  for (int r = 0; r < kBlockRows; ++r) {
    const int64_t row = block * kBlockRows + r;
    if (row >= part.num_rows) return;
    const uint8_t* source = FindRow(sources, part.first_row + row);
    if (QuantFormatOf(part.type).low_bits == 0) {
      PackDenseRow(part, source, layout.num_columns, r, target);
    } else {
      PackQuantisedRow(part, source, layout.num_columns, r, target);
    }
  }
}

const PackedPart& PartOfBlock(const PackedLayout& layout, int64_t block) {
  size_t i = 0;
  while (block >= layout.parts[i].first_block + layout.parts[i].num_blocks) ++i;
  return layout.parts[i];
}

}  // namespace

PackedLayout PlanPacking(std::span<const WeightMatrix> sources) {
  NSA_CHECK(!sources.empty());
  PackedLayout layout;
  layout.num_columns = sources[0].num_columns;
  for (const WeightMatrix& source : sources) {
    NSA_CHECK(source.num_columns == layout.num_columns);
    if (source.num_rows == 0) continue;
    if (layout.parts.empty() || layout.parts.back().type != source.type) {
      layout.parts.push_back({.type = source.type, .first_row = layout.num_rows});
    }
    layout.parts.back().num_rows += source.num_rows;
    layout.num_rows += source.num_rows;
  }
  for (PackedPart& part : layout.parts) {
    const UnitLayout unit = UnitLayoutOf(part.type);
    part.num_units = CeilDiv(layout.num_columns, unit.columns);
    part.block_bytes = part.num_units * unit.end;
    if (QuantFormatOf(part.type).has_supers) {
      part.block_bytes += CeilDiv(layout.num_columns, kSuperColumns) * kSuperBytes;
    }
    part.num_blocks = CeilDiv(part.num_rows, kBlockRows);
    part.first_block = layout.num_blocks;
    part.offset = layout.num_bytes;
    layout.num_blocks += part.num_blocks;
    layout.num_bytes += part.num_blocks * part.block_bytes;
  }
  return layout;
}

int64_t OffsetOfBlock(const PackedLayout& layout, int64_t block) {
  if (block == layout.num_blocks) return layout.num_bytes;
  const PackedPart& part = PartOfBlock(layout, block);
  return part.offset + (block - part.first_block) * part.block_bytes;
}

void PackBlocks(const PackedLayout& layout, std::span<const WeightMatrix> sources, int64_t begin,
                int64_t end, std::byte* target) {
  NSA_CHECK(0 <= begin && begin <= end && end <= layout.num_blocks);
  for (int64_t block = begin; block < end; ++block) {
    const PackedPart& part = PartOfBlock(layout, block);
    PackBlock(layout, part, sources, block - part.first_block, reinterpret_cast<uint8_t*>(target));
    target += part.block_bytes;
  }
}

}  // namespace nsa::kernels::cuda
