#include <algorithm>
#include <bit>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "kernels/cuda/grad_attention.h"
#include "kernels/cuda/grad_device.h"
#include "kernels/cuda/runtime.h"
#include "kernels/grad/device.h"

namespace nsa::kernels::cuda {
namespace {

using grad::Branch;
using grad::NumWindows;
using grad::PackedSequences;

constexpr int64_t kMaxHeadDims = 4096;

/// Of a call on the host: its shape but for pointers, and where sequences begin.
struct HostShape {
  GradShape shape = {};
  std::vector<GradPlace> places;
  int64_t max_windows = 0;  // of a sequence
  int64_t max_blocks = 0;
};

/// `num_keys` tells how many keys so many tokens have.
template <typename NumKeys>
void LayOut(const PackedSequences& sequences, NumKeys&& num_keys, HostShape& host) {
  GradShape& s = host.shape;
  GradPlace next = {};
  host.places.push_back(next);
  for (int64_t i = 0; i < sequences.num_sequences; ++i) {
    const int64_t length = sequences.Length(i), keys = num_keys(length);
    const int64_t key_tiles = CeilDiv(keys, kTileKeys), mask_tiles = CeilDiv(length, kMaskQueries);
    next.token += length;
    next.key += keys;
    next.line_tile += s.tile_queries > 0 ? CeilDiv(length, s.tile_queries) : 0;
    next.mask_tile += mask_tiles;
    next.key_tile += key_tiles;
    next.mask += mask_tiles * key_tiles * s.masks_per_tile;
    host.places.push_back(next);
    host.max_windows = std::max(host.max_windows, keys);
    if (s.sel_block_size > 0) {
      host.max_blocks = std::max(host.max_blocks, CeilDiv(length, s.sel_block_size));
    }
  }
  s.num_sequences = static_cast<int>(sequences.num_sequences);
  s.totals = next;
}

HostShape ShapeOf(const grad::AttentionInput<void>& input) {
  const grad::AttentionSpec& spec = input.spec;
  const grad::HeadShape& heads = input.heads;
  HostShape host;
  GradShape& s = host.shape;
  s.branch = input.branch;
  s.length = spec.length;
  s.stride = spec.stride;
  s.window_size = static_cast<int>(std::min<int64_t>(spec.window_size, INT32_MAX));
  s.sel_block_size = spec.sel_block_size;
  s.num_selected = spec.num_selected_blocks;
  s.scale = static_cast<float>(spec.scale);
  s.group = heads.Group();
  s.num_q_heads = heads.num_q_heads;
  s.num_kv_heads = heads.num_kv_heads;
  s.dim_k = heads.head_dim_k;
  s.dim_v = heads.head_dim_v;
  s.tile_queries = static_cast<int>(std::bit_floor(static_cast<unsigned>(kTileLines / s.group)));
  const bool has_small_blocks = s.branch == Branch::kSelected && s.sel_block_size < kTileKeys;
  s.masks_per_tile = has_small_blocks ? kTileKeys / s.sel_block_size : 1;
  LayOut(input.sequences, [&](int64_t length) { return input.NumKeys(length); }, host);
  return host;
}

HostShape ShapeOf(const grad::WindowsShape& windows) {
  HostShape host;
  GradShape& s = host.shape;
  s.length = windows.length;
  s.stride = windows.stride;
  s.num_kv_heads = windows.num_heads;
  s.dim_k = windows.head_dim;
  LayOut(
      windows.sequences,
      [&](int64_t length) { return NumWindows(length, windows.length, windows.stride); }, host);
  return host;
}

/// Queries that see key tile `tile` of a sequence, at most of kSelected's all.
int64_t MaxQueries(const GradShape& s, int64_t length, int64_t num_keys, int64_t tile) {
  const int64_t first = tile * kTileKeys, end_key = std::min(first + kTileKeys, num_keys);
  if (s.branch == Branch::kCompressed) return length - (first * s.stride + s.length - 1);
  if (s.branch == Branch::kSelected) return length - first;
  return std::min(length, end_key - 1 + s.window_size) - first;
}

/// How many items and slots dK and dV can come to.
struct PlanSizes {
  int64_t items = 0;
  int64_t slots = 0;
};
PlanSizes SizesOfPlan(const HostShape& host, int64_t max_queries) {
  const GradShape& s = host.shape;
  PlanSizes sizes;
  for (int i = 0; i < s.num_sequences; ++i) {
    const GradPlace &begin = host.places[i], &end = host.places[i + 1];
    const int64_t length = end.token - begin.token, tiles = end.key_tile - begin.key_tile;
    int64_t sum = 0, items = 0, slots = 0;
    for (int64_t tile = 0; tile < tiles; ++tile) {
      const int64_t count = MaxQueries(s, length, end.key - begin.key, tile);
      const int64_t parts = std::max<int64_t>(1, CeilDiv(count, max_queries));
      sum += count;
      items += parts;
      slots += parts > 1 ? parts : 0;
    }
    if (s.branch == Branch::kSelected) {
      const int64_t per_query = int64_t{s.num_selected} * std::max(1, s.sel_block_size / kTileKeys);
      // No more than all lists hold; who has several parts has less than twice the whole ones.
      const int64_t whole = std::min(sum, length * std::min(per_query, tiles)) / max_queries;
      items = std::min(items, tiles + whole);
      slots = std::min(slots, 2 * whole);
    }
    sizes.items += items;
    sizes.slots += slots;
  }
  return {sizes.items * s.num_kv_heads, sizes.slots * s.num_kv_heads};
}

/// Pieces of one allocation, each a multiple of 256 bytes.
class Pieces {
 public:
  /// Where the piece will begin.
  int64_t Add(int64_t num_bytes) {
    return std::exchange(total_, total_ + CeilDiv(num_bytes, 256) * 256);
  }
  int64_t total() const { return total_; }

 private:
  int64_t total_ = 0;
};

bool IsAligned(std::initializer_list<const void*> pointers) {
  return std::all_of(pointers.begin(), pointers.end(), [](const void* pointer) {
    return reinterpret_cast<uintptr_t>(pointer) % 16 == 0;
  });
}

class GradDevice final : public grad::Device {
 public:
  explicit GradDevice(const GradLimits& limits) : limits_(limits) {}
  ~GradDevice() override { Wait(stream_); }

  bool Serves(DType dtype) const override { return dtype == DType::kF32 || dtype == DType::kBF16; }
  int64_t max_head_dims() const override { return kMaxHeadDims; }
  bool is_host() const override { return false; }
  void SetStream(void* stream) override {
    if (stream == stream_.handle) return;
    Wait(stream_);  // calls there still use the memory
    stream_.handle = stream;
  }

  void AttentionForward(const grad::DeviceAttention& attention,
                        const grad::DeviceOutput& output) override;
  void AttentionBackward(const grad::DeviceAttention& attention,
                         const grad::DeviceGradients& gradients) override;
  void GatherWindows(const grad::DeviceWindows& windows) override {
    Run(&GradGatherWindows, windows);
  }
  void GatherWindowsBackward(const grad::DeviceWindows& windows) override {
    Run(&GradGatherWindowsBackward, windows);
  }
  void MeanWindows(const grad::DeviceWindows& windows) override { Run(&GradMeanWindows, windows); }
  void MeanWindowsBackward(const grad::DeviceWindows& windows) override {
    Run(&GradMeanWindowsBackward, windows);
  }

 private:
  using WindowsLaunch = void (*)(Stream&, DType, const GradWindows&);
  void Run(WindowsLaunch launch, const grad::DeviceWindows& windows);
  void Choose(const grad::DeviceAttention& attention, const HostShape& host, bool has_tensors,
              GradChoice choice, std::byte* memory);
  int64_t ChoiceTiles(const HostShape& host) const;

  /// Memory for a call; its end, where it has to grow, waits for the device.
  std::byte* Scratch(int64_t num_bytes) {
    if (num_bytes <= scratch_.num_bytes()) return scratch_.data();
    scratch_ = {};
    scratch_ = AllocateDevice(num_bytes);
    if (scratch_.data() == nullptr) {
      throw std::runtime_error("the device has not " + std::to_string(num_bytes) +
                               " bytes of free memory for what a call leaves between its kernels");
    }
    return scratch_.data();
  }
  void CopyPlaces(const HostShape& host, std::byte* target) {
    CopyBytes(stream_, target, host.places.data(),
              static_cast<int64_t>(host.places.size() * sizeof(GradPlace)));
  }

  GradLimits limits_;
  Stream stream_;
  Memory scratch_;
};

int64_t PlacesBytes(const HostShape& host) {
  return static_cast<int64_t>(host.places.size() * sizeof(GradPlace));
}
int64_t MaskBytes(const HostShape& host) {
  const GradShape& s = host.shape;
  return s.branch == Branch::kSelected ? 8 * s.totals.mask * s.num_kv_heads : 0;
}

/// Bytes of one line tile's choice.
int64_t ChoiceBytes(const HostShape& host) {
  const GradShape& s = host.shape;
  return 4 * s.tile_queries * int64_t{s.num_kv_heads} * (host.max_windows + host.max_blocks);
}
int64_t GradDevice::ChoiceTiles(const HostShape& host) const {
  const int64_t at_once = limits_.choice_bytes / std::max<int64_t>(1, ChoiceBytes(host));
  return std::clamp<int64_t>(at_once, 1, std::max<int64_t>(1, host.shape.totals.line_tile));
}

void GradDevice::AttentionForward(const grad::DeviceAttention& attention,
                                  const grad::DeviceOutput& output) {
  const grad::AttentionInput<void>& input = attention.input;
  HostShape host = ShapeOf(input);
  GradShape& s = host.shape;
  const bool has_tensors = HasTensorShape(attention.dtype, s.dim_k, s.dim_v) &&
                           IsAligned({input.q, input.k, input.v, output.out});
  const bool chooses = s.branch == Branch::kCompressed && output.selected != nullptr;
  Pieces pieces;
  const int64_t places = pieces.Add(PlacesBytes(host)), masks = pieces.Add(MaskBytes(host));
  const int64_t choice = pieces.Add(chooses ? ChoiceTiles(host) * ChoiceBytes(host) : 0);
  std::byte* memory = Scratch(pieces.total());
  CopyPlaces(host, memory + places);
  s.places = reinterpret_cast<GradPlace*>(memory + places);
  s.masks = reinterpret_cast<uint64_t*>(memory + masks);
  if (s.branch == Branch::kSelected) GradMasks(stream_, s, input.selected);
  const GradForward call = {s, input.q, input.k, input.v, output.out, output.lse};
  GradAttentionForward(stream_, attention.dtype, has_tensors, call);
  if (!chooses) return;
  Choose(attention, host, has_tensors,
         {.forward = call,
          .num_initial_blocks = input.spec.num_initial_blocks,
          .num_local_blocks = input.spec.num_local_blocks,
          .begin = 0,
          .end = 0,
          .max_windows = host.max_windows,
          .max_blocks = host.max_blocks,
          .probabilities = nullptr,
          .keys = nullptr,
          .selected = output.selected},
         memory + choice);
}

void GradDevice::Choose(const grad::DeviceAttention& attention, const HostShape& host,
                        bool has_tensors, GradChoice choice, std::byte* memory) {
  const GradShape& s = host.shape;
  const int64_t at_once = ChoiceTiles(host);
  choice.probabilities = reinterpret_cast<float*>(memory);
  choice.keys = reinterpret_cast<uint32_t*>(memory) +
                at_once * s.tile_queries * s.num_kv_heads * host.max_windows;
  for (; choice.begin < s.totals.line_tile; choice.begin = choice.end) {
    choice.end = std::min(choice.begin + at_once, s.totals.line_tile);
    GradChoose(stream_, attention.dtype, has_tensors, choice);
  }
}

void GradDevice::AttentionBackward(const grad::DeviceAttention& attention,
                                   const grad::DeviceGradients& gradients) {
  const grad::AttentionInput<void>& input = attention.input;
  HostShape host = ShapeOf(input);
  GradShape& s = host.shape;
  const bool has_tensors = HasTensorShape(attention.dtype, s.dim_k, s.dim_v) &&
                           IsAligned({input.q, input.k, input.v, gradients.grad_out,
                                      gradients.grad_q, gradients.grad_k, gradients.grad_v});
  GradPlan plan = {};
  plan.num_tiles = s.totals.key_tile * s.num_kv_heads;
  plan.max_queries =
      static_cast<int>(std::clamp<int64_t>(limits_.item_lines / s.group, 1, INT32_MAX));
  const PlanSizes sizes = has_tensors ? SizesOfPlan(host, plan.max_queries) : PlanSizes{};
  plan.max_items = sizes.items;
  plan.max_slots = sizes.slots;
  Pieces pieces;
  const int64_t places = pieces.Add(PlacesBytes(host)), masks = pieces.Add(MaskBytes(host));
  const int64_t deltas = pieces.Add(4 * s.totals.token * s.num_q_heads);
  const int64_t items = pieces.Add(4 * (plan.num_tiles + 1));
  const int64_t slot_begins = pieces.Add(4 * (plan.num_tiles + 1));
  const int64_t slots = pieces.Add(sizes.slots * 4 * kTileKeys * (s.dim_k + s.dim_v));
  std::byte* memory = Scratch(pieces.total());
  CopyPlaces(host, memory + places);
  s.places = reinterpret_cast<GradPlace*>(memory + places);
  s.masks = reinterpret_cast<uint64_t*>(memory + masks);
  plan.item_begins = reinterpret_cast<int32_t*>(memory + items);
  plan.slot_begins = reinterpret_cast<int32_t*>(memory + slot_begins);
  plan.slots = reinterpret_cast<float*>(memory + slots);
  const GradBackward call = {s,
                             input.q,
                             input.k,
                             input.v,
                             gradients.out,
                             gradients.lse,
                             gradients.grad_out,
                             gradients.grad_q,
                             gradients.grad_k,
                             gradients.grad_v,
                             reinterpret_cast<float*>(memory + deltas)};
  if (s.branch == Branch::kSelected) GradMasks(stream_, s, input.selected);
  GradDeltas(stream_, attention.dtype, call);
  GradAttentionQueries(stream_, attention.dtype, has_tensors, call);
  if (has_tensors) GradPlanKeys(stream_, s, plan);
  GradAttentionKeys(stream_, attention.dtype, has_tensors, call, plan);
}

void GradDevice::Run(WindowsLaunch launch, const grad::DeviceWindows& windows) {
  HostShape host = ShapeOf(windows.shape);
  GradShape& s = host.shape;
  Pieces pieces;
  const int64_t places = pieces.Add(PlacesBytes(host));
  const bool has_parts = windows.grad_position != nullptr;
  const int64_t num_parts = has_parts ? CeilDiv(s.totals.key, kWindowsOfPart) : 0;
  const int64_t parts = pieces.Add(4 * num_parts * s.length * s.dim_k);
  std::byte* memory = Scratch(pieces.total());
  CopyPlaces(host, memory + places);
  s.places = reinterpret_cast<GradPlace*>(memory + places);
  launch(stream_, windows.dtype,
         {s, windows.x, windows.position, windows.windows, windows.grad_windows, windows.grad_x,
          windows.grad_position, reinterpret_cast<float*>(memory + parts)});
}

}  // namespace

grad::OpenedDevice OpenGradDevice(const GradLimits& limits) {
  grad::OpenedDevice opened;
  if (OpenDevice(opened.error).has_value()) opened.device = std::make_unique<GradDevice>(limits);
  return opened;
}

}  // namespace nsa::kernels::cuda

namespace nsa::kernels::grad {

OpenedDevice OpenCuda() { return kernels::cuda::OpenGradDevice({}); }

}  // namespace nsa::kernels::grad
