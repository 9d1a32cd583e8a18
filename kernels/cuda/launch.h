#ifndef NSA_KERNELS_CUDA_LAUNCH_H_
#define NSA_KERNELS_CUDA_LAUNCH_H_

#include <cstdint>
#include <type_traits>

#include "kernels/check.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/launch_queue.h"

namespace nsa::kernels::cuda {

/// Enqueues kernel(args): on the stream, or where it has a queue there.
template <typename Args>
void Launch(Stream& stream, const LaunchShape& shape, void (*kernel)(Args), const Args& args) {
  static_assert(std::is_trivially_copyable_v<Args>);
  if (shape.grid_x == 0 || shape.grid_y == 0) return;
  NSA_CHECK(shape.grid_x <= INT32_MAX && shape.grid_y <= UINT16_MAX);
  const LaunchNode node = {.shape = shape,
                           .function = reinterpret_cast<const void*>(kernel),
                           .run =
                               [](const void* function, const void* argument) {
                                 reinterpret_cast<void (*)(Args)>(const_cast<void*>(function))(
                                     *static_cast<const Args*>(argument));
                               },
                           .argument = &args,
                           .argument_bytes = sizeof(Args)};
  if (stream.queue != nullptr) return stream.queue->Add(node);
  LaunchNow(stream, node);
}

}  // namespace nsa::kernels::cuda

#endif  // NSA_KERNELS_CUDA_LAUNCH_H_
