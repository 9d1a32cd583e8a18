#ifndef NSA_KERNELS_CUDA_GEMM_TILE_H_
#define NSA_KERNELS_CUDA_GEMM_TILE_H_

#include <cstddef>
#include <cstdint>

#include "kernels/check.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/gemm.h"
#include "kernels/cuda/launch.h"

/// Gemm of many rows: the pipeline, whose arithmetic is a Core's. A CTA has 64 outputs and 128
/// rows, a warp 32 and 32. Units of W and x come to shared memory by cp.async, ahead of the one
/// that is worked on, in the layout that lanes read: 16 bytes a lane, in a row, without conflicts.
///
/// A Core has kUnitBytes and kSuperBytes of W and kXUnitBytes of x, in kStages stages; kCtas of its
/// CTAs share a multiprocessor. Every thread constructs it with an arena, of which all together
/// take kOwnBytes. It takes units in order by Add(w, supers, x, num_steps), the warp's first block
/// in each, and at the end gives Sum(m, n, i): register i of D of its m-th 16 outputs and n-th 8
/// rows.
namespace nsa::kernels::cuda {

inline constexpr int kWarpBlocks = 2;   // of 16 outputs
inline constexpr int kWarpXBlocks = 4;  // of 8 rows
inline constexpr int kTileBlocks = 2 * kWarpBlocks;
inline constexpr int kTileXBlocks = 4 * kWarpXBlocks;
inline constexpr int kTileThreads = 256;
inline constexpr int kTileWarps = kTileThreads / kWarpSize;

/// A CTA's shared memory.
template <class Core>
struct TileShared {
  static constexpr int kW = kTileBlocks * Core::kUnitBytes;
  static constexpr int kSupers = kTileBlocks * Core::kSuperBytes;
  static constexpr int kX = kTileXBlocks * Core::kXUnitBytes;
  static constexpr int64_t kBytes = int64_t{Core::kStages} * (kW + kSupers + kX) + Core::kOwnBytes;

  std::byte* w;       // [Core::kStages, kTileBlocks, kUnitBytes]
  std::byte* x;       // [Core::kStages, kTileXBlocks, kXUnitBytes]
  std::byte* supers;  // [Core::kStages, kTileBlocks, kSuperBytes], or null
};

/// What a warp copies of each unit: one block of W, or its supers, and two of x. In units of 16
/// bytes, which fit into 32 bits; −1 where there is none, in whose place zeros stand.
struct WarpSources {
  int w;     // block WarpIndex() % kTileBlocks of the tile
  int x[2];  // blocks WarpIndex() and WarpIndex() + kTileWarps
};
static_assert(kTileWarps == 2 * kTileBlocks && kTileXBlocks == 2 * kTileWarps);

NSA_DEVICE WarpSources FindSources(const GemmPart& p, int64_t first_block, int64_t first_x_block) {
  WarpSources s;
  const int64_t block = first_block + WarpIndex() % kTileBlocks;
  s.w = block < p.num_blocks ? static_cast<int>(block * p.block_bytes / 16) : -1;
  NSA_UNROLL
  for (int i = 0; i < 2; ++i) {
    const int64_t x_block = first_x_block + WarpIndex() + i * kTileWarps;
    s.x[i] = x_block < p.num_x_blocks ? static_cast<int>(x_block * p.x_block_bytes / 16) : -1;
  }
  return s;
}

/// Starts a warp's copy of kBytes, `offset` behind what begins at `source` (as in WarpSources).
template <int kBytes>
NSA_DEVICE void CopyPiece(std::byte* shared, const std::byte* base, int source, int offset) {
  const bool is_valid = source >= 0;
  const std::byte* from = base + int64_t{(is_valid ? source + offset : 0) + LaneIndex()} * 16;
  NSA_UNROLL
  for (int at = 0; at < kBytes; at += kWarpSize * 16) {
    if (at + LaneIndex() * 16 >= kBytes) continue;
    CopyAsync(shared + at + LaneIndex() * 16, from + at, is_valid);
  }
}

/// Starts the copies of one unit, and closes their group; an empty one behind the last unit.
template <class Core>
NSA_DEVICE void CopyUnit(const GemmPart& p, const WarpSources& from, int unit,
                         const TileShared<Core>& shared) {
  using Shared = TileShared<Core>;
  if (unit < p.num_units) {
    const int stage = unit % Core::kStages, block = WarpIndex() % kTileBlocks;
    if (WarpIndex() < kTileBlocks) {
      CopyPiece<Core::kUnitBytes>(shared.w + stage * Shared::kW + block * Core::kUnitBytes,
                                  p.blocks, from.w, unit * (Core::kUnitBytes / 16));
    } else if constexpr (Core::kSuperBytes > 0) {
      const int super = unit * Core::kUnitColumns / kSuperColumns;
      CopyPiece<Core::kSuperBytes>(
          shared.supers + stage * Shared::kSupers + block * Core::kSuperBytes, p.blocks, from.w,
          p.num_units * (Core::kUnitBytes / 16) + super * (Core::kSuperBytes / 16));
    }
    NSA_UNROLL
    for (int i = 0; i < 2; ++i) {
      const int x_block = WarpIndex() + i * kTileWarps;
      CopyPiece<Core::kXUnitBytes>(shared.x + stage * Shared::kX + x_block * Core::kXUnitBytes, p.x,
                                   from.x[i], unit * (Core::kXUnitBytes / 16));
    }
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
NSA_KERNEL_SHARING(kTileThreads, Core::kCtas)
TileKernel(NSA_ARGS GemmPart p) {
  using Shared = TileShared<Core>;
  SharedArena arena;
  Shared shared;
  shared.w = arena.Take<std::byte>(Core::kStages * Shared::kW);
  shared.x = arena.Take<std::byte>(Core::kStages * Shared::kX);
  shared.supers = nullptr;
  if constexpr (Shared::kSupers > 0) {
    shared.supers = arena.Take<std::byte>(Core::kStages * Shared::kSupers);
  }
  const int64_t block = CtaX() * kTileBlocks, x_block = CtaY() * kTileXBlocks;
  const int warp_block = WarpIndex() % 2 * kWarpBlocks, warp_x = WarpIndex() / 2 * kWarpXBlocks;
  const bool has_work = x_block + warp_x < p.num_x_blocks && block + warp_block < p.num_blocks;
  Core core(arena);
  const WarpSources sources = FindSources(p, block, x_block);
  for (int unit = 0; unit < Core::kStages - 1; ++unit) CopyUnit(p, sources, unit, shared);
  for (int unit = 0; unit < p.num_units; ++unit) {
    WaitCopies<Core::kStages - 2>();
    // Everybody's copies of this unit are there, and nobody reads the one before any more.
    SyncThreads();
    CopyUnit(p, sources, unit + Core::kStages - 1, shared);
    if (!has_work) continue;
    const int stage = unit % Core::kStages;
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
  NSA_CHECK(part.num_blocks * part.block_bytes / 16 <= INT32_MAX &&
            part.num_x_blocks * part.x_block_bytes / 16 <= INT32_MAX);
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
