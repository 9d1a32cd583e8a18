#ifndef NSA_KERNELS_CPU_CPU_H_
#define NSA_KERNELS_CPU_CPU_H_

#include <cstddef>
#include <memory>
#include <memory_resource>
#include <new>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "kernels/backend.h"
#include "kernels/cpu/weight_arena.h"
#include "kernels/thread_pool.h"

/// The operators for the CPU: Highway with run-time dispatch, split over the pool's threads.
namespace nsa::kernels::cpu {

/// Memory that only grows and is reused from call to call: 64-byte aligned, not initialised.
class Scratch {
 public:
  Scratch() = default;
  ~Scratch();
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  /// At least `count` elements; invalidates what the call before returned.
  template <typename T>
  T* Get(size_t count) {
    return static_cast<T*>(Grow(count * sizeof(T)));
  }

 private:
  void* Grow(size_t num_bytes);

  void* data_ = nullptr;
  size_t capacity_ = 0;
};

/// A list whose memory belongs to one call of an operator; see ListScope.
template <typename T>
using List = std::pmr::vector<T>;

/// Shared memory of the operators of attention, which may run together (TaskList). Others, which
/// run by themselves, take any.
enum SharedMemory : size_t { kCmpParts, kSharedScores, kSelParts, kWinParts, kNumShared };

/// What the operators of one backend share: threads, weights' and scratch memory.
struct Context {
  explicit Context(int num_threads)
      : pool(num_threads), shared(kNumShared), worker(static_cast<size_t>(num_threads)) {}

  ThreadPool pool;
  WeightArena weights;
  std::vector<Scratch> shared;  // for one call: results that all workers read
  std::vector<Scratch> worker;  // [num_threads], each used by its worker alone
  // Room for the lists of a decode step's call; longer ones take more for the time of the call.
  std::vector<std::byte> list_memory = std::vector<std::byte>(256 << 10);
  std::pmr::monotonic_buffer_resource lists{list_memory.data(), list_memory.size()};
};

/// Gives memory to the lists of one call, which all end before it does: an operator makes one
/// first. Calls of a decode step allocate nothing so.
class ListScope {
 public:
  explicit ListScope(Context& context) : context_(context) {}
  ~ListScope() { context_.lists.release(); }
  ListScope(const ListScope&) = delete;
  ListScope& operator=(const ListScope&) = delete;

  std::pmr::memory_resource* memory() const { return &context_.lists; }

  /// An object for the time of the call, which needs no end.
  template <typename T, typename... Arguments>
  T& New(Arguments&&... arguments) const {
    static_assert(std::is_trivially_destructible_v<T>);
    return *new (memory()->allocate(sizeof(T), alignof(T)))
        T(std::forward<Arguments>(arguments)...);
  }

 private:
  Context& context_;
};

/// The instruction set that dispatch chose: "AVX3_DL".
std::string TargetName();

std::unique_ptr<PackedMatrix> Pack(Context& context, std::span<const WeightMatrix> parts);
void Embed(Context& context, const EmbedParams& params);
void RmsNorm(Context& context, const RmsNormParams& params);
void Gemm(Context& context, const GemmParams& params);
void Glu(Context& context, const GluParams& params);
void RopeKvWrite(Context& context, const RopeKvWriteParams& params);
void CmpPool(Context& context, const CmpPoolParams& params);
void CmpGather(Context& context, const CmpGatherParams& params);
void CmpScatter(Context& context, const CmpScatterParams& params);
void CmpCluster(Context& context, const CmpClusterParams& params);
void CmpAttn(Context& context, const CmpAttnParams& params);
void ScoreTopk(Context& context, const ScoreTopkParams& params);
void SelAttn(Context& context, const SelAttnParams& params);
void WinAttn(Context& context, const WinAttnParams& params);
void FullAttn(Context& context, const FullAttnParams& params);
void SparseAttn(Context& context, const SparseAttnParams& params);
void Merge(Context& context, const MergeParams& params);
void PageAges(Context& context, const PageAgesParams& params);
void Sample(Context& context, const SampleParams& params);

}  // namespace nsa::kernels::cpu

#endif  // NSA_KERNELS_CPU_CPU_H_
