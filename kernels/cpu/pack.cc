#include <algorithm>
#include <cstring>
#include <memory>
#include <span>
#include <vector>

#include "kernels/affine.h"
#include "kernels/check.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/packed_matrix.h"

namespace nsa::kernels::cpu {
namespace {

constexpr int64_t kCacheLine = 64;

bool IsDense(WeightType type) { return FindWeightBlock(type)->num_elements == 1; }

int64_t RoundUpToLine(int64_t num_bytes) {
  return (num_bytes + kCacheLine - 1) / kCacheLine * kCacheLine;
}

// Bytes from the begin of a group of 32 columns.
struct GroupLayout {
  explicit GroupLayout(const AffineFormat& format) {
    const int64_t coefficients = 32 / format.group_size * kBlockRows * (format.half_scales ? 2 : 4);
    scale = 32 * kBlockRows * format.num_bits / 8;
    minimum = scale + coefficients;
    end = format.symmetric_offset == 0 ? minimum + coefficients : minimum;
  }
  int64_t scale, minimum, end;
};

int64_t BlockBytes(WeightType type, int64_t num_columns) {
  if (IsDense(type)) return RoundUpToLine(RowBytes(type, num_columns) * kBlockRows);
  return num_columns / 32 * GroupLayout(FindAffineFormat(type)).end;
}

void StoreCoefficient(float value, bool half, int64_t index, std::byte* target) {
  if (half) {
    const uint16_t bits = F32ToF16(value);
    std::memcpy(target + 2 * index, &bits, sizeof(bits));
  } else {
    std::memcpy(target + 4 * index, &value, sizeof(value));
  }
}

// Puts columns [0, 8) (4 bits) or [0, 4) (8 bits) of `q` into one 32-bit lane (packed_matrix.h).
uint32_t PackLane(const uint8_t* q, const AffineFormat& format) {
  uint32_t lane = 0;
  if (format.num_bits == 4) {
    for (int i = 0; i < 8; ++i) lane |= uint32_t{q[i]} << (4 * (i / 2) + 16 * (i % 2));
    return lane;
  }
  for (int i = 0; i < 4; ++i) {
    const auto value = static_cast<uint8_t>(q[i] - format.symmetric_offset);
    lane |= uint32_t{value} << (8 * (i / 2) + 16 * (i % 2));
  }
  return lane;
}

// Row `row` of a block, from the file's row.
void PackQuantisedRow(WeightType type, const uint8_t* source, int64_t num_columns, int64_t row,
                      std::byte* block) {
  const AffineFormat format = FindAffineFormat(type);
  const GroupLayout layout(format);
  const WeightBlock& file_block = *FindWeightBlock(type);
  const int columns_per_lane = 32 / format.num_bits;
  AffineBlock affine;
  for (int64_t first = 0; first < num_columns; first += file_block.num_elements) {
    UnpackAffine(type, source + first / file_block.num_elements * file_block.num_bytes, affine);
    for (int i = 0; i < file_block.num_elements; i += columns_per_lane) {
      std::byte* group = block + (first + i) / 32 * layout.end;
      const uint32_t lane = PackLane(affine.q + i, format);
      std::memcpy(group + (i % 32 / columns_per_lane * kBlockRows + row) * 4, &lane, 4);
    }
    for (int i = 0; i < file_block.num_elements; i += format.group_size) {
      std::byte* group = block + (first + i) / 32 * layout.end;
      const int64_t index = i % 32 / format.group_size * kBlockRows + row;
      const int scale = i / format.group_size;
      StoreCoefficient(affine.scale[scale], format.half_scales, index, group + layout.scale);
      if (format.symmetric_offset > 0) continue;
      StoreCoefficient(affine.minimum[scale], format.half_scales, index, group + layout.minimum);
    }
  }
}

void PackDenseRow(WeightType type, const uint8_t* source, int64_t num_columns, int64_t row,
                  std::byte* block) {
  const int64_t size = FindWeightBlock(type)->num_bytes;
  for (int64_t k = 0; k < num_columns; ++k) {
    std::memcpy(block + (k * kBlockRows + row) * size, source + k * size,
                static_cast<size_t>(size));
  }
}

}  // namespace

class Packer {
 public:
  Packer(WeightArena& arena, std::span<const WeightMatrix> sources)
      : arena_(arena), sources_(sources), matrix_(std::make_unique<CpuMatrix>()) {}

  std::unique_ptr<PackedMatrix> Run() {
    LayOut();
    // Zeros: the padding rows weigh nothing.
    matrix_->data_ = arena_.Allocate(static_cast<size_t>(matrix_->num_bytes_));
    std::byte* data = matrix_->data_.get();
    for (size_t i = 0; i < sources_.size(); ++i) {
      PackedPart& part = matrix_->parts_[i];
      part.data = data;
      Fill(sources_[i], part, data);
      data += part.num_blocks * part.block_bytes;
    }
    return std::move(matrix_);
  }

 private:
  void LayOut() {
    NSA_CHECK(!sources_.empty());
    CpuMatrix& matrix = *matrix_;
    matrix.num_columns_ = sources_[0].num_columns;
    for (const WeightMatrix& source : sources_) {
      NSA_CHECK(source.num_columns == matrix.num_columns_);
      PackedPart part;
      part.type = source.type;
      part.first_row = matrix.num_rows_;
      part.num_rows = source.num_rows;
      part.first_block = matrix.num_blocks_;
      part.num_blocks = (source.num_rows + kBlockRows - 1) / kBlockRows;
      part.block_bytes = BlockBytes(source.type, source.num_columns);
      matrix.num_rows_ += part.num_rows;
      matrix.num_blocks_ += part.num_blocks;
      matrix.num_bytes_ += part.num_blocks * part.block_bytes;
      matrix.has_quantised_part_ = matrix.has_quantised_part_ || !IsDense(part.type);
      matrix.parts_.push_back(part);
    }
  }

  void Fill(const WeightMatrix& source, const PackedPart& part, std::byte* data) const {
    const auto* bytes = static_cast<const uint8_t*>(source.data);
    const int64_t row_bytes = RowBytes(source.type, source.num_columns);
    const bool dense = IsDense(source.type);
    for (int64_t row = 0; row < source.num_rows; ++row) {
      std::byte* block = data + row / kBlockRows * part.block_bytes;
      if (dense) {
        PackDenseRow(source.type, bytes + row * row_bytes, source.num_columns, row % kBlockRows,
                     block);
      } else {
        PackQuantisedRow(source.type, bytes + row * row_bytes, source.num_columns, row % kBlockRows,
                         block);
      }
    }
  }

  WeightArena& arena_;
  std::span<const WeightMatrix> sources_;
  std::unique_ptr<CpuMatrix> matrix_;
};

std::unique_ptr<PackedMatrix> Pack(Context& context, std::span<const WeightMatrix> parts) {
  return Packer(context.weights, parts).Run();
}

}  // namespace nsa::kernels::cpu
