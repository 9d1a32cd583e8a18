#include <algorithm>
#include <cstring>
#include <utility>

#include "kernels/cuda/launch_queue.h"

namespace nsa::kernels::cuda {
namespace {

// Fewer launches are as quick one by one.
constexpr size_t kMinGraphNodes = 8;
// Batch sizes in use, times the shapes that a growing context goes through, times two areas.
constexpr size_t kMaxGraphs = 32;
constexpr size_t kMaxSeen = 64;
constexpr int64_t kAlignment = 16;

bool IsSameShape(const LaunchNode& a, const LaunchNode& b) {
  return a.function == b.function && a.argument_bytes == b.argument_bytes &&
         a.shape.grid_x == b.shape.grid_x && a.shape.grid_y == b.shape.grid_y &&
         a.shape.num_threads == b.shape.num_threads && a.shape.shared_bytes == b.shape.shared_bytes;
}

}  // namespace

void LaunchQueue::Chain::Bind() {
  for (size_t i = 0; i < nodes.size(); ++i) nodes[i].argument = arguments.data() + offsets[i];
}

bool LaunchQueue::Chain::HasShapeOf(const Chain& other) const {
  return area == other.area && std::ranges::equal(nodes, other.nodes, IsSameShape);
}

/// FNV-1a (Fowler, Noll, Vo) over what HasShapeOf compares.
uint64_t LaunchQueue::Chain::Signature() const {
  uint64_t hash = 14695981039346656037u;
  const auto mix = [&hash](uint64_t value) { hash = (hash ^ value) * 1099511628211u; };
  mix(static_cast<uint64_t>(area));
  for (const LaunchNode& node : nodes) {
    mix(reinterpret_cast<uintptr_t>(node.function));
    mix(static_cast<uint64_t>(node.shape.grid_x));
    mix(static_cast<uint64_t>(node.shape.grid_y));
    mix(static_cast<uint64_t>(node.shape.num_threads));
    mix(static_cast<uint64_t>(node.shape.shared_bytes));
  }
  return hash;
}

void LaunchQueue::Add(const LaunchNode& node) {
  const auto offset = static_cast<int64_t>(chain_.arguments.size());
  chain_.arguments.resize(
      static_cast<size_t>(offset + CeilDiv(node.argument_bytes, kAlignment) * kAlignment));
  std::memcpy(chain_.arguments.data() + offset, node.argument,
              static_cast<size_t>(node.argument_bytes));
  chain_.nodes.push_back(node);
  chain_.offsets.push_back(offset);
}

LaunchQueue::CachedGraph* LaunchQueue::Find(const Chain& chain) {
  const auto it = std::ranges::find_if(
      graphs_, [&](const CachedGraph& cached) { return cached.chain.HasShapeOf(chain); });
  return it == graphs_.end() ? nullptr : &*it;
}

/// Whether a chain of this signature came before; remembers it.
bool LaunchQueue::WasSeen(uint64_t signature) {
  if (std::ranges::find(seen_, signature) != seen_.end()) return true;
  if (seen_.size() == kMaxSeen) seen_.erase(seen_.begin());
  seen_.push_back(signature);
  return false;
}

void LaunchQueue::UpdateAndLaunch(CachedGraph& cached, Stream& stream) {
  Chain& known = cached.chain;
  for (size_t i = 0; i < chain_.nodes.size(); ++i) {
    const std::byte* argument = chain_.arguments.data() + chain_.offsets[i];
    const auto num_bytes = static_cast<size_t>(chain_.nodes[i].argument_bytes);
    std::byte* before = known.arguments.data() + known.offsets[i];
    if (std::memcmp(before, argument, num_bytes) == 0) continue;
    std::memcpy(before, argument, num_bytes);
    cached.graph->Update(i, known.nodes[i]);
    ++counts_.updates;
  }
  cached.last_flush = num_flushes_;
  cached.graph->Launch(stream);
  ++counts_.graph_launches;
}

/// Makes a graph of this step's chain, in the place of the one that was longest not used.
void LaunchQueue::Make(Stream& stream) {
  if (graphs_.size() == kMaxGraphs) {
    graphs_.erase(std::ranges::min_element(graphs_, {}, &CachedGraph::last_flush));
  }
  CachedGraph& cached = graphs_.emplace_back();
  cached.chain = chain_;
  cached.chain.Bind();
  cached.graph = MakeLaunchGraph(cached.chain.nodes);
  ++counts_.graphs_made;
  UpdateAndLaunch(cached, stream);
}

void LaunchQueue::Flush(Stream& stream, int area) {
  if (chain_.nodes.empty()) return;
  chain_.area = area;
  ++num_flushes_;
  const bool is_long = chain_.nodes.size() >= kMinGraphNodes;
  if (CachedGraph* cached = is_long ? Find(chain_) : nullptr; cached != nullptr) {
    UpdateAndLaunch(*cached, stream);
  } else if (is_long && WasSeen(chain_.Signature())) {
    Make(stream);
  } else {
    chain_.Bind();
    for (const LaunchNode& node : chain_.nodes) LaunchNow(stream, node);
    counts_.direct_launches += static_cast<int64_t>(chain_.nodes.size());
  }
  chain_.nodes.clear();
  chain_.offsets.clear();
  chain_.arguments.clear();
}

}  // namespace nsa::kernels::cuda
