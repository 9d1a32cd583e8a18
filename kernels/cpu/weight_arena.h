#ifndef NSA_KERNELS_CPU_WEIGHT_ARENA_H_
#define NSA_KERNELS_CPU_WEIGHT_ARENA_H_

#include <cstddef>
#include <memory>

namespace nsa::kernels::cpu {

/// Memory for packed weights, in large pages where the system gives them: a decode step reads all
/// of it, and with small pages would wait for look-ups of addresses. One thread.
class WeightArena {
 public:
  /// `num_bytes` zero bytes, 64-byte aligned, which may outlive the arena. Memory goes back to the
  /// system when all that share a chunk of it are gone.
  std::shared_ptr<std::byte> Allocate(size_t num_bytes);

 private:
  std::shared_ptr<std::byte> chunk_;
  size_t chunk_bytes_ = 0;
  size_t used_ = 0;
};

}  // namespace nsa::kernels::cpu

#endif  // NSA_KERNELS_CPU_WEIGHT_ARENA_H_
