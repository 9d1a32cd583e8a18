#ifndef NSA_KERNELS_CUDA_MMA_COMPRESSED_COPIES_H_
#define NSA_KERNELS_CUDA_MMA_COMPRESSED_COPIES_H_

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/device.h"
#include "kernels/cuda/elements.h"
#include "kernels/cuda/mma_compressed_tile.h"

/// Compressed rows of several pages on their way to one tile in shared memory.
namespace nsa::kernels::cuda {

/// The KV head's compressed rows of a page of the sequence.
NSA_DEVICE const std::byte* RowSlot(const SplitAttention& a, const RowTile& tile, int page) {
  return a.rows.slots + tile.first.row.page_table[page] * a.rows.page_stride +
         tile.first.kv_head * a.rows.head_stride;
}

/// Starts the copies of a tile's keys in pieces of 2^kLog2 rows of one dimension, zeros behind the
/// last page that somebody reads. A single row has two bytes, which cp.async does not move.
template <int kLog2, typename T>
NSA_DEVICE void StartKeyPieces(const SplitAttention& a, const RowTile& tile,
                               const TileExtent& extent, int number, T* target) {
  constexpr int kRows = 1 << kLog2;
  const int rows_log2 = a.rows.rows_log2, first = number * kTileRows;
  const int rows = 1 << rows_log2, pieces_log2 = rows_log2 - kLog2;
  for (int row = 0; row < kTileRows; row += rows) {
    const bool is_there = first + row < extent.end;
    const std::byte* slot = is_there ? RowSlot(a, tile, (first + row) >> rows_log2) : a.rows.slots;
    const T* keys = ElementsAt<T>(slot, 0);
    for (int i = ThreadIndex(); i < a.query.kv.head_dim_k << pieces_log2; i += NumThreads()) {
      const int dim = i >> pieces_log2, piece = i & ((1 << pieces_log2) - 1);
      T* to = target + dim * Pitch(kTileRows) + row + piece * kRows;
      const T* from = keys + (is_there ? i * kRows : 0);
      if constexpr (kRows == 1) {
        *to = is_there ? *from : FromFloat<T>(0);
      } else {
        CopyAsync<2 * kRows>(to, from, is_there);
      }
    }
  }
}

template <typename T>
NSA_DEVICE void StartKeys(const SplitAttention& a, const RowTile& tile, const TileExtent& extent,
                          int number, T* target) {
  if (number * kTileRows >= extent.end) return;
  if (a.rows.rows_log2 == 0) {
    StartKeyPieces<0>(a, tile, extent, number, target);
  } else if (a.rows.rows_log2 == 1) {
    StartKeyPieces<1>(a, tile, extent, number, target);
  } else if (a.rows.rows_log2 == 2) {
    StartKeyPieces<2>(a, tile, extent, number, target);
  } else {
    StartKeyPieces<3>(a, tile, extent, number, target);
  }
  CommitCopies();
}

/// Starts the copies of a tile's values, zeros for rows that nobody reads.
template <typename T>
NSA_DEVICE void StartValues(const SplitAttention& a, const RowTile& tile, const TileExtent& extent,
                            int number, T* target) {
  const int dims = a.query.kv.head_dim_v, first = number * kTileRows;
  const int rows_log2 = a.rows.rows_log2;
  for (int i = ThreadIndex(); i < kTileRows * dims / 8; i += NumThreads()) {
    const Split place = SplitIndex(i, dims / 8);
    const auto row = static_cast<int>(place.quotient);
    const bool is_read = first + row >= extent.begin && first + row < extent.end;
    const std::byte* slot = is_read ? RowSlot(a, tile, (first + row) >> rows_log2) : a.rows.slots;
    const int in_page = row & ((1 << rows_log2) - 1);
    const T* values = ElementsAt<T>(slot, is_read ? a.rows.v_offset : 0);
    CopyAsync(target + row * Pitch(dims) + place.remainder * 8,
              values + (is_read ? in_page * dims + place.remainder * 8 : 0), is_read);
  }
  CommitCopies();
}

}  // namespace nsa::kernels::cuda

#endif  // NSA_KERNELS_CUDA_MMA_COMPRESSED_COPIES_H_
