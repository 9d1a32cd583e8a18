#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "kernels/check.h"
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/gemm.h"
#include "kernels/cuda/packed_matrix.h"

namespace nsa::kernels::cuda {
namespace {

bool IsQuantised(const PackedPart& part) { return QuantFormatOf(part.type).low_bits != 0; }

/// Of a block of 8 rows of x, as the parts of W want it: the quantised form, then the other.
struct XForms {
  explicit XForms(const PackedLayout& layout) {
    for (const PackedPart& part : layout.parts) {
      int64_t& bytes = IsQuantised(part) ? quantised_bytes : dense_bytes;
      bytes = XBlockBytes(IsQuantised(part), layout.num_columns);
    }
  }
  int64_t quantised_bytes = 0;  // 0: no part reads it
  int64_t dense_bytes = 0;
};

/// Rows [begin, begin + num_rows), of which x has room in the workspace.
void GemmRows(Stream& stream, const GemmParams& params, const MatrixView& w, int64_t begin,
              int64_t num_rows, std::byte* workspace) {
  const XForms forms(w.layout);
  const int64_t num_x_blocks = CeilDiv(num_rows, kBlockXRows);
  std::byte* quantised = workspace;
  std::byte* dense = workspace + num_x_blocks * forms.quantised_bytes;
  LayOutXArgs args = {.x = params.x + begin * params.x_stride,
                      .x_stride = params.x_stride,
                      .num_rows = num_rows,
                      .num_columns = w.layout.num_columns,
                      .target = quantised,
                      .block_bytes = forms.quantised_bytes};
  if (forms.quantised_bytes > 0) LayOutX(stream, true, args);
  args.target = dense;
  args.block_bytes = forms.dense_bytes;
  if (forms.dense_bytes > 0) LayOutX(stream, false, args);
  for (const PackedPart& part : w.layout.parts) {
    const bool is_quantised = IsQuantised(part);
    const GemmPart launch = {
        .blocks = w.data + part.offset,
        .block_bytes = part.block_bytes,
        .num_blocks = part.num_blocks,
        .num_units = static_cast<int>(part.num_units),
        .num_outputs = part.num_rows,
        .x = is_quantised ? quantised : dense,
        .x_block_bytes = is_quantised ? forms.quantised_bytes : forms.dense_bytes,
        .num_x_blocks = num_x_blocks,
        .num_steps = static_cast<int>(CeilDiv(w.layout.num_columns, kStepColumns)),
        .y = params.y + begin * params.y_stride + part.first_row,
        .y_stride = params.y_stride,
        .num_rows = num_rows,
        .bias = params.bias == nullptr ? nullptr : params.bias + part.first_row,
        .accumulate = params.accumulate,
        .scale = params.scale};
    (is_quantised ? LaunchQuantisedGemm : LaunchDenseGemm)(stream, part.type, launch);
  }
}

int64_t WorkspaceFloatsOfBlock(const PackedLayout& layout) {
  const XForms forms(layout);
  return (forms.quantised_bytes + forms.dense_bytes) / int64_t{sizeof(float)};
}

}  // namespace

int64_t GemmWorkspaceFloats(const PackedLayout& layout, int64_t num_rows) {
  return CeilDiv(num_rows, kBlockXRows) * WorkspaceFloatsOfBlock(layout);
}

void Gemm(Stream& stream, const GemmParams& params, const MatrixView& w,
          const Workspace& workspace) {
  if (params.num_rows == 0 || w.layout.parts.empty()) return;
  // Whole tiles of 128 rows, where there is room for one.
  constexpr int64_t kTileBlocks = 16;
  int64_t blocks = workspace.num_floats / WorkspaceFloatsOfBlock(w.layout);
  NSA_CHECK(blocks > 0 && "Gemm's workspace does not hold 8 rows of x");
  if (blocks > kTileBlocks) blocks = blocks / kTileBlocks * kTileBlocks;
  for (int64_t row = 0; row < params.num_rows; row += blocks * kBlockXRows) {
    GemmRows(stream, params, w, row, std::min(blocks * kBlockXRows, params.num_rows - row),
             reinterpret_cast<std::byte*>(workspace.data));
  }
}

}  // namespace nsa::kernels::cuda
