#ifndef NSA_KERNELS_CPU_PACKED_MATRIX_H_
#define NSA_KERNELS_CPU_PACKED_MATRIX_H_

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <vector>

#include "kernels/ops/gemm.h"

namespace nsa::kernels::cpu {

/// Output rows that are stored, and worked on, side by side: one to a vector lane, two 512-bit
/// vectors of 16. A part's last block is padded with zeros.
inline constexpr int kBlockRows = 32;

/// One of the matrices that Pack was given. A block is contiguous and begins on a cache line:
///
/// Quantised: num_columns / 32 groups of columns, one after the other, each
///   q: [32 / columns_per_lane, kBlockRows] lanes of 32 bits, each holding consecutive columns of
///      one row so that pairs of them fall out as two 16-bit integers:
///      4 bits: 8 columns; pair p (columns 2p, 2p+1) is bits 4p…4p+3 of each 16-bit half
///      8 bits: 4 columns, signed; pair p is byte p of each 16-bit half
///   scale:   [32 / group_size, kBlockRows] float16 or float32
///   minimum: as scale; formats with a minimum only
/// So a product with one row of x reads memory strictly in order.
/// Dense: [num_columns, kBlockRows] of the file's own type.
struct PackedPart {
  WeightType type = WeightType::kF32;
  int64_t first_row = 0;  // in the whole matrix
  int64_t num_rows = 0;
  int64_t first_block = 0;  // in the whole matrix
  int64_t num_blocks = 0;
  const std::byte* data = nullptr;  // [num_blocks, block_bytes]
  int64_t block_bytes = 0;
};

class CpuMatrix final : public PackedMatrix {
 public:
  int64_t num_rows() const override { return num_rows_; }
  int64_t num_columns() const override { return num_columns_; }
  int64_t num_bytes() const override { return num_bytes_; }

  const std::vector<PackedPart>& parts() const { return parts_; }
  int64_t num_blocks() const { return num_blocks_; }
  bool has_quantised_part() const { return has_quantised_part_; }

 private:
  friend class Packer;
  int64_t num_rows_ = 0;
  int64_t num_columns_ = 0;
  int64_t num_bytes_ = 0;
  int64_t num_blocks_ = 0;
  bool has_quantised_part_ = false;
  std::vector<PackedPart> parts_;
  std::shared_ptr<std::byte> data_;
};

}  // namespace nsa::kernels::cpu

#endif  // NSA_KERNELS_CPU_PACKED_MATRIX_H_
