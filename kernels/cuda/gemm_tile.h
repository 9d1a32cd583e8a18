#ifndef NSA_KERNELS_CUDA_GEMM_TILE_H_
#define NSA_KERNELS_CUDA_GEMM_TILE_H_

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/device.h"
#include "kernels/cuda/gemm.h"
#include "kernels/cuda/launch.h"

/// Gemm of many rows: the pipeline, whose arithmetic is a Core's. A CTA has 64 outputs and 128
/// rows, a warp 32 and 32. Units of W and x come to shared memory by cp.async, two ahead of the one
/// that is worked on, in the layout that lanes read: 16 bytes a lane, in a row, without conflicts.
///
/// A Core has kUnitBytes and kSuperBytes of W and kXUnitBytes of x, may be default-constructed by
/// every thread, takes units in order by Add(w, supers, x, num_steps), the warp's first block in
/// each, and at the end gives Sum(m, n, i): register i of D of its m-th 16 outputs and n-th 8 rows.
namespace nsa::kernels::cuda {

inline constexpr int kWarpBlocks = 2;   // of 16 outputs
inline constexpr int kWarpXBlocks = 4;  // of 8 rows
inline constexpr int kTileBlocks = 2 * kWarpBlocks;
inline constexpr int kTileXBlocks = 4 * kWarpXBlocks;
inline constexpr int kTileThreads = 256;
inline constexpr int kTileStages = 3;

/// A CTA's shared memory.
template <class Core>
struct TileShared {
  static constexpr int kW = kTileBlocks * Core::kUnitBytes;
  static constexpr int kSupers = kTileBlocks * Core::kSuperBytes;
  static constexpr int kX = kTileXBlocks * Core::kXUnitBytes;
  static constexpr int64_t kBytes = int64_t{kTileStages} * (kW + kSupers + kX);

  std::byte* w;       // [kTileStages, kTileBlocks, kUnitBytes]
  std::byte* x;       // [kTileStages, kTileXBlocks, kXUnitBytes]
  std::byte* supers;  // [kTileStages, kTileBlocks, kSuperBytes], or null
};

/// Starts kCount copies of kBytes, from begin + i · stride where i < num_valid, zeros elsewhere.
template <int kCount, int kBytes>
NSA_DEVICE void CopyPieces(std::byte* shared, const std::byte* begin, int64_t stride,
                           int64_t num_valid) {
  constexpr int kChunks = kBytes / 16;
  for (int i = ThreadIndex(); i < kCount * kChunks; i += kTileThreads) {
    const int piece = i / kChunks;
    const bool is_valid = piece < num_valid;
    CopyAsync(shared + i * 16, begin + (is_valid ? piece * stride : 0) + i % kChunks * 16,
              is_valid);
  }
}

/// Starts the copies of one unit, and closes their group; an empty one behind the last unit.
template <class Core>
NSA_DEVICE void CopyUnit(const GemmPart& p, int64_t first_block, int64_t first_x_block, int unit,
                         const TileShared<Core>& shared) {
  using Shared = TileShared<Core>;
  if (unit < p.num_units) {
    const int stage = unit % kTileStages;
    const std::byte* block = p.blocks + first_block * p.block_bytes;
    const int64_t blocks_left = p.num_blocks - first_block;
    CopyPieces<kTileBlocks, Core::kUnitBytes>(shared.w + stage * Shared::kW,
                                              block + int64_t{unit} * Core::kUnitBytes,
                                              p.block_bytes, blocks_left);
    if constexpr (Core::kSuperBytes > 0) {
      const std::byte* supers = block + int64_t{p.num_units} * Core::kUnitBytes +
                                unit * Core::kUnitColumns / kSuperColumns * Core::kSuperBytes;
      CopyPieces<kTileBlocks, Core::kSuperBytes>(shared.supers + stage * Shared::kSupers, supers,
                                                 p.block_bytes, blocks_left);
    }
    CopyPieces<kTileXBlocks, Core::kXUnitBytes>(
        shared.x + stage * Shared::kX,
        p.x + first_x_block * p.x_block_bytes + int64_t{unit} * Core::kXUnitBytes, p.x_block_bytes,
        p.num_x_blocks - first_x_block);
  }
  CommitCopies();
}

/// A warp's outputs.
template <class Core>
NSA_DEVICE void StoreTile(const GemmPart& p, int64_t first_block, int64_t first_x_block,
                          const Core& core) {
  NSA_UNROLL
  for (int m = 0; m < kWarpBlocks; ++m) {
    NSA_UNROLL
    for (int n = 0; n < kWarpXBlocks; ++n) {
      NSA_UNROLL
      for (int i = 0; i < 4; ++i) {
        const int64_t output = (first_block + m) * kBlockRows + LaneIndex() / 4 + i / 2 * 8;
        const int64_t row = (first_x_block + n) * kBlockXRows + LaneIndex() % 4 * 2 + i % 2;
        if (output < p.num_outputs && row < p.num_rows) {
          StoreOutput(p, row, output, core.Sum(m, n, i));
        }
      }
    }
  }
}

/// CTA (o, r): outputs [64·o, …) and rows [128·r, …). CTAs next to each other share rows of x.
template <class Core>
NSA_KERNEL(kTileThreads)
TileKernel(NSA_ARGS GemmPart p) {
  using Shared = TileShared<Core>;
  SharedArena arena;
  Shared shared;
  shared.w = arena.Take<std::byte>(kTileStages * Shared::kW);
  shared.x = arena.Take<std::byte>(kTileStages * Shared::kX);
  shared.supers = nullptr;
  if constexpr (Shared::kSupers > 0) {
    shared.supers = arena.Take<std::byte>(kTileStages * Shared::kSupers);
  }
  const int64_t block = CtaX() * kTileBlocks, x_block = CtaY() * kTileXBlocks;
  const int warp_block = WarpIndex() % 2 * kWarpBlocks, warp_x = WarpIndex() / 2 * kWarpXBlocks;
  const bool has_work = x_block + warp_x < p.num_x_blocks && block + warp_block < p.num_blocks;
  Core core;
  for (int unit = 0; unit < kTileStages - 1; ++unit) CopyUnit(p, block, x_block, unit, shared);
  for (int unit = 0; unit < p.num_units; ++unit) {
    WaitCopies<kTileStages - 2>();
    // Everybody's copies of this unit are there, and nobody reads the one before any more.
    SyncThreads();
    CopyUnit(p, block, x_block, unit + kTileStages - 1, shared);
    if (!has_work) continue;
    const int stage = unit % kTileStages;
    core.Add(shared.w + stage * Shared::kW + warp_block * Core::kUnitBytes,
             shared.supers + stage * Shared::kSupers + warp_block * Core::kSuperBytes,
             shared.x + stage * Shared::kX + warp_x * Core::kXUnitBytes,
             p.num_steps - unit * (Core::kUnitColumns / kStepColumns));
  }
  WaitCopies<0>();
  if (has_work) StoreTile(p, block + warp_block, x_block + warp_x, core);
}

template <class Core>
void LaunchTiles(Stream& stream, const char* name, const GemmPart& part) {
  Launch(stream,
         {.name = name,
          .grid_x = CeilDiv(part.num_blocks, kTileBlocks),
          .grid_y = CeilDiv(part.num_x_blocks, kTileXBlocks),
          .num_threads = kTileThreads,
          .shared_bytes = TileShared<Core>::kBytes},
         TileKernel<Core>, part);
}

}  // namespace nsa::kernels::cuda

#endif  // NSA_KERNELS_CUDA_GEMM_TILE_H_
