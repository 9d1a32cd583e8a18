#include <cstddef>
#include <cstdint>

#include "kernels/cuda/compressed_rows.h"
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/elements.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/paged.h"

namespace nsa::kernels::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / kWarpSize;
constexpr int kTile = kWarpSize;            // tokens and dimensions of a tile
constexpr int kTileStride = kWarpSize + 1;  // floats: rows and columns each meet all banks

struct Args {
  CompressedRowsArgs rows;
  const float* position;
  float* y;
};

NSA_DEVICE const std::byte* SlotOf(const PagedKv& kv, const CompressedRow& row, int64_t token) {
  return HeadSlot(kv, row.page_table[token / kPageSize], row.kv_head);
}

/// Keys stand with tokens side by side and go to rows of dimensions: a warp turns a tile around.
template <typename T>
NSA_DEVICE void GatherKeys(const Args& args, const CompressedRow& row, float* tile, float* y) {
  const CompressedRows& rows = args.rows.rows;
  const int dims = rows.kv.head_dim_k, lane = LaneIndex();
  const int token_tiles = (rows.length + kTile - 1) / kTile, dim_tiles = (dims + kTile - 1) / kTile;
  for (int item = WarpIndex(); item < token_tiles * dim_tiles; item += kWarps) {
    const int first_token = item % token_tiles * kTile, first_dim = item / token_tiles * kTile;
    const int tokens = rows.length - first_token, in_tile = dims - first_dim;
    SyncWarp();  // the tile before is stored
    if (lane < tokens) {
      const int64_t token = (row.window << args.rows.log2_stride) + first_token + lane;
      const std::byte* slot = SlotOf(rows.kv, row, token);
      for (int i = 0; i < kTile && i < in_tile; ++i) {
        tile[i * kTileStride + lane] = LoadKey<T>(rows.kv, slot, first_dim + i, token % kPageSize);
      }
    }
    SyncWarp();
    if (lane >= in_tile) continue;
    for (int i = 0; i < kTile && i < tokens; ++i) {
      const int64_t at = int64_t{first_token + i} * dims + first_dim + lane;
      y[at] = tile[lane * kTileStride + i] + args.position[at];
    }
  }
}

/// Values stand as they go: a warp a token.
template <typename T>
NSA_DEVICE void GatherValues(const Args& args, const CompressedRow& row, float* y) {
  const CompressedRows& rows = args.rows.rows;
  const int dims = rows.kv.head_dim_v;
  for (int i = WarpIndex(); i < rows.length; i += kWarps) {
    const int64_t token = (row.window << args.rows.log2_stride) + i;
    const std::byte* slot = SlotOf(rows.kv, row, token);
    for (int dim = LaneIndex(); dim < dims; dim += kWarpSize) {
      const int64_t at = int64_t{i} * dims + dim;
      y[at] = LoadValue<T>(rows.kv, slot, dim, token % kPageSize) + args.position[at];
    }
  }
}

/// CTA r: row r.
template <typename T, bool kValues>
NSA_KERNEL(kThreads)
CmpGatherKernel(NSA_ARGS Args args) {
  const CompressedRows& rows = args.rows.rows;
  const CompressedRow row = FindCompressedRow(args.rows, CtaX());
  if constexpr (kValues) {
    GatherValues<T>(args, row, args.y + CtaX() * rows.length * rows.kv.head_dim_v);
  } else {
    NSA_SHARED(float, tiles, kWarps* kTile* kTileStride);
    GatherKeys<T>(args, row, tiles + WarpIndex() * kTile * kTileStride,
                  args.y + CtaX() * rows.length * rows.kv.head_dim_k);
  }
}

}  // namespace

void CmpGather(Stream& stream, const CmpGatherParams& params) {
  const CompressedRows& rows = params.rows;
  const LaunchShape launch = {
      .name = "cmp_gather", .grid_x = rows.num_rows, .num_threads = kThreads};
  const Args args = {CompressedRowsArgs(rows), params.position, params.y};
  WithElementType(rows.kv.dtype, [&](auto element) {
    using T = decltype(element);
    if (rows.values) return Launch(stream, launch, CmpGatherKernel<T, true>, args);
    Launch(stream, launch, CmpGatherKernel<T, false>, args);
  });
}

}  // namespace nsa::kernels::cuda
