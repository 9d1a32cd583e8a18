#include <cstddef>
#include <cstdint>

#include "kernels/check.h"
#include "kernels/cuda/compressed_rows.h"
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/elements.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/rotate.h"

namespace nsa::kernels::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / kWarpSize;

struct Args {
  CompressedRowsArgs rows;
  RopeView rope;
  const float* x;
};

/// Pair i of a key at its window's first position, in the frame of the page of its last token, or
/// of the sequence.
NSA_DEVICE Pair TurnPair(const Args& args, int64_t window, int64_t last_page, int i, Pair x) {
  const int64_t first = window << args.rows.log2_stride, first_page = first / kPageSize;
  x = RotateFine(args.rope, first % kPageSize, i, 1, x);
  if (args.rows.rows.kv.cmp_absolute) return RotateCoarse(args.rope, first_page, i, 1, x);
  return RotateCoarse(args.rope, last_page - first_page, i, -1, x);
}

/// A warp a row; lanes take pairs of a key, or single dimensions, in turn.
NSA_KERNEL(kThreads) CmpScatterKernel(NSA_ARGS Args args) {
  const CompressedRows& rows = args.rows.rows;
  const PagedKv& kv = rows.kv;
  const int64_t index = CtaX() * kWarps + WarpIndex();
  if (index >= rows.num_rows) return;
  const CompressedRow row = FindCompressedRow(args.rows, index);
  // FindCmpSlot, with shifts for its divisions.
  const int64_t last_stride = row.window + (rows.length >> args.rows.log2_stride) - 1;
  const int64_t rows_per_page = kPageSize >> args.rows.log2_stride;
  const int64_t last_page = (last_stride << args.rows.log2_stride) / kPageSize;
  const int64_t slot = last_stride & (rows_per_page - 1);
  std::byte* target = kv.cmp_slots + row.page_table[last_page] * kv.cmp_page_stride +
                      row.kv_head * kv.cmp_head_stride;
  const int dims = rows.head_dim();
  const float* x = args.x + index * dims;
  if (rows.values) {
    for (int dim = LaneIndex(); dim < dims; dim += kWarpSize) {
      StoreElement(kv.cmp_dtype, target + kv.cmp_v_offset, slot * dims + dim, x[dim]);
    }
    return;
  }
  const int half = args.rope.rotary_dim / 2;
  for (int i = LaneIndex(); i < dims - half; i += kWarpSize) {
    Pair pair = {i < half ? x[i] : 0, x[i + half]};
    if (i < half) {
      pair = TurnPair(args, row.window, last_page, i, pair);
      StoreElement(kv.cmp_dtype, target, i * rows_per_page + slot, pair.a);
    }
    StoreElement(kv.cmp_dtype, target, (i + half) * rows_per_page + slot, pair.b);
  }
}

}  // namespace

void CmpScatter(Stream& stream, const CmpScatterParams& params) {
  NSA_CHECK(params.rows.kv.cmp_dtype != DType::kInt8);
  Launch(stream,
         {.name = "cmp_scatter",
          .grid_x = CeilDiv(params.rows.num_rows, kWarps),
          .num_threads = kThreads},
         CmpScatterKernel, Args{CompressedRowsArgs(params.rows), params.rope, params.x});
}

}  // namespace nsa::kernels::cuda
