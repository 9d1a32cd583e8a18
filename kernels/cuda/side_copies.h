#ifndef NSA_KERNELS_CUDA_SIDE_COPIES_H_
#define NSA_KERNELS_CUDA_SIDE_COPIES_H_

#include <memory>

#include "kernels/cuda/device_types.h"
#include "kernels/side_copies.h"

namespace nsa::kernels::cuda {

/// Copies behind what stands in `queue` and in `compute`, both of which outlive them, on a stream
/// for each direction: a GPU copies both ways at once, and who waits for a page does not wait for
/// those that leave. Null where the device has no room for the zeros of Clear.
std::unique_ptr<SideCopies> MakeSideCopies(Stream& compute, LaunchQueue& queue);

}  // namespace nsa::kernels::cuda

#endif  // NSA_KERNELS_CUDA_SIDE_COPIES_H_
