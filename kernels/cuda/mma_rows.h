#ifndef NSA_KERNELS_CUDA_MMA_ROWS_H_
#define NSA_KERNELS_CUDA_MMA_ROWS_H_

#include "kernels/cuda/device.h"

/// Matrices of 16-bit floats in shared memory, as ldmatrix takes them.
namespace nsa::kernels::cuda {

/// Rows in shared memory are longer by 16 bytes, so that eight of them, one below the other, lie in
/// different banks (where they hold a multiple of 32 bytes).
constexpr int Pitch(int columns) { return columns + 8; }

/// The 16 × 16 block of `matrix`, row-major with `pitch`, that begins at (row, column): what a lane
/// brings to ldmatrix.x4. Plain, it is an A of Mma, or the transposed B of two, in registers 0, 2
/// and 1, 3; transposed, the B of two, in registers 0, 1 and 2, 3.
template <typename T>
NSA_DEVICE const T* BlockRow(const T* matrix, int pitch, int row, int column) {
  return matrix + (row + LaneIndex() % 16) * pitch + column + LaneIndex() / 16 * 8;
}

}  // namespace nsa::kernels::cuda

#endif  // NSA_KERNELS_CUDA_MMA_ROWS_H_
