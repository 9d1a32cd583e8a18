#ifndef NSA_TESTS_CUDA_HOST_EMULATOR_H_
#define NSA_TESTS_CUDA_HOST_EMULATOR_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <source_location>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels/cuda/device_types.h"

/// A GPU's threads on one thread of this machine. CTAs run one after the other; the threads of a
/// CTA are fibers, each of which runs until it has to wait. Not thread-safe: one launch at a time.
namespace nsa::cuda_host {

/// A kernel broke a rule of CUDA. Says kernel, CTA, thread and what it did.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Which thread goes on where several could: always the first, always the last, or by chance.
/// Between two waits a thread runs alone, so that where a barrier is missing, one order or another
/// reads what is not yet written, or no longer there. Each order also has its own bytes in shared
/// memory that was never written, and its own order of CTAs; copies of cp.async happen as late as
/// they may, or at once where `backward`.
struct Order {
  enum class Kind : uint8_t { kForward, kBackward, kShuffled };
  Kind kind = Kind::kForward;
  uint64_t seed = 0;
};

/// Whether there is an emulator, or a GPU in its place (tests/gpu): then orders and barriers are
/// not ours to choose, what is set below changes nothing, and a broken rule of CUDA ends the
/// process.
bool IsEmulated();

/// Of all launches from now on.
void SetOrder(Order order);

/// Where threads waited in SyncThreads or SyncWarp since the last ForgetBarriers.
std::vector<std::source_location> BarriersSeen();
void ForgetBarriers();
/// From now on the barrier at this place lets everybody pass; null: none does.
void SkipBarrier(const std::source_location* where);

/// Runs kernel() in every thread of the launch; throws Error. Afterwards the next launch may run.
void RunLaunch(const kernels::cuda::LaunchShape& shape, const std::function<void()>& kernel);

// What device.h makes its functions of; to be called inside RunLaunch only.

struct Place {
  int thread;
  int num_threads;
  int64_t cta_x;
  int64_t cta_y;
};
const Place& Here();

/// Throws Error about the calling thread.
[[noreturn]] void Fail(const std::string& what);

/// Waits for all threads of the CTA at the same line of source.
void Barrier(const std::source_location& where);

/// What the lanes of a warp brought to one instruction; null for a lane that takes no part.
using Lanes = std::array<void*, kernels::cuda::kWarpSize>;

/// Waits for the lanes of `mask` at the same line with the same mask; then `combine` runs once and
/// leaves each lane's result in what it brought. A barrier brings null.
void WarpStep(const char* instruction, uint32_t mask, void* mine, void (*combine)(const Lanes&),
              const std::source_location& where);

/// The CTA's array that is declared at this place. Uninitialised, with nothing around it that may
/// be read or written (under the address sanitizer).
void* StaticShared(int64_t bytes, const std::source_location& where);

/// The CTA's `index`-th piece of dynamic shared memory.
void* DynamicShared(int index, int64_t bytes);

/// Fails where not all of [address, address + bytes) lies in one of the CTA's shared arrays, or the
/// address is no multiple of `bytes`.
void CheckShared(const void* address, int64_t bytes, const char* instruction);

/// Fails where the address is no multiple of `bytes`.
void CheckAligned(const void* address, int64_t bytes, const char* instruction);

/// cp.async of the calling thread. `source_bytes` come from `global`, zeros behind them.
void StartCopy(void* shared, const void* global, int bytes, int source_bytes);
void CloseCopies();
void FinishCopies(int num_pending);

}  // namespace nsa::cuda_host

#endif  // NSA_TESTS_CUDA_HOST_EMULATOR_H_
