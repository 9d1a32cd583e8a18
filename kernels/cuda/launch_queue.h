#ifndef NSA_KERNELS_CUDA_LAUNCH_QUEUE_H_
#define NSA_KERNELS_CUDA_LAUNCH_QUEUE_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "kernels/cuda/device_types.h"

namespace nsa::kernels::cuda {

/// One launch of a kernel with its argument.
struct LaunchNode {
  LaunchShape shape;
  const void* function = nullptr;  // of the kernel
  /// Calls function(argument) in one thread, where kernels run on an emulator.
  void (*run)(const void* function, const void* argument) = nullptr;
  const void* argument = nullptr;
  int64_t argument_bytes = 0;
};

/// Enqueues the launch.
void LaunchNow(Stream& stream, const LaunchNode& node);

/// Launches in a chain that the driver knows as one (CUDA C++ Programming Guide, "CUDA Graphs"):
/// to enqueue it costs about what one launch costs.
class LaunchGraph {
 public:
  virtual ~LaunchGraph() = default;
  /// From the next Launch on, the index-th launch has this argument.
  virtual void Update(size_t index, const LaunchNode& node) = 0;
  virtual void Launch(Stream& stream) = 0;
};
std::unique_ptr<LaunchGraph> MakeLaunchGraph(const std::vector<LaunchNode>& nodes);

/// Collects a step's launches and enqueues them at once: as a graph where the same kernels came in
/// the same shapes before, which is what decode steps of one batch size do. What differs from step
/// to step are arguments, and those are exchanged. One thread.
class LaunchQueue {
 public:
  struct Counts {
    int64_t direct_launches = 0;  // of single kernels
    int64_t graph_launches = 0;
    int64_t updates = 0;  // of a graph's arguments
    int64_t graphs_made = 0;
  };

  /// Copies the argument.
  void Add(const LaunchNode& node);
  /// Enqueues all. To be called before anything else is enqueued that needs them done. Chains of
  /// two areas of inputs have graphs of their own, whose arguments then stay as they are.
  void Flush(Stream& stream, int area = 0);

  const Counts& counts() const { return counts_; }

 private:
  /// Nodes whose arguments stand one after the other in `arguments`.
  struct Chain {
    std::vector<LaunchNode> nodes;  // `argument` is set by Bind alone
    std::vector<int64_t> offsets;   // of arguments
    std::vector<std::byte> arguments;
    int area = 0;

    void Bind();
    bool HasShapeOf(const Chain& other) const;
    uint64_t Signature() const;
  };
  struct CachedGraph {
    std::unique_ptr<LaunchGraph> graph;
    Chain chain;
    int64_t last_flush = 0;
  };

  CachedGraph* Find(const Chain& chain);
  void UpdateAndLaunch(CachedGraph& cached, Stream& stream);
  bool WasSeen(uint64_t signature);
  void Make(Stream& stream);

  Chain chain_;  // of this step
  std::vector<CachedGraph> graphs_;
  std::vector<uint64_t> seen_;  // signatures of the last chains that had no graph
  int64_t num_flushes_ = 0;
  Counts counts_;
};

}  // namespace nsa::kernels::cuda

#endif  // NSA_KERNELS_CUDA_LAUNCH_QUEUE_H_
