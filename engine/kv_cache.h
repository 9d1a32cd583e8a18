#ifndef NSA_ENGINE_KV_CACHE_H_
#define NSA_ENGINE_KV_CACHE_H_

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/attention/plan.h"
#include "engine/slot_places.h"
#include "kernels/array.h"
#include "kernels/backend.h"
#include "kernels/memory.h"
#include "kernels/ops/attention.h"

namespace nsa::engine {

/// What one page costs and how it is laid out.
struct KvLayout {
  int num_layers = 0;
  int num_kv = 1;  // K and V by branch where they have their own
  int num_kv_heads = 0;
  int head_dim_k = 0;
  int head_dim_v = 0;
  kernels::DType dtype = kernels::DType::kBF16;      // of K and V
  kernels::DType cmp_dtype = kernels::DType::kBF16;  // of compressed rows
  int cmp_rows_per_page = 0;                         // 0: the plan has no compressed rows
  bool compressed_values = false;
  bool cmp_biases = false;    // a bias for each compressed row
  bool cmp_absolute = false;  // compressed keys in the frame of the sequence
  bool has_places = false;    // where pages may leave memory, slots stand at places (KvCache)

  /// What a plan needs in a cache of `dtype`; compressed rows have a type of their own.
  static KvLayout For(const AttentionSpec& spec, const AttentionShape& shape, int num_layers,
                      kernels::DType dtype);

  int64_t SlotBytes() const;     // one K and V of one (layer, page)
  int64_t CmpSlotBytes() const;  // compressed rows of one (layer, page)
  int64_t PageBytes() const;     // of all layers
  int64_t SlotsBytes() const;    // K and V of one page, in all layers and branches
};

/// The memory of the paged cache: for each layer an array of slots (K and V; one for each
/// branch where these have their own) and one of compressed rows, apart so that the latter can stay
/// when slots move. Where rows have values (cmp_attn reads them), a head's keys of consecutive
/// pages stand behind each other, and so do its values, as a task reads them; where they choose
/// pages alone (score_topk), the heads of a page do. On the CPU, address space is taken at once,
/// memory as pages are first written. Written by operators on the engine thread alone.
///
/// Where pages may leave memory (`num_blocks` > 0, on the CPU) there is address space for all
/// pages, those in the tier below as well, so that a page keeps its index wherever it is, and
/// operators and page tables know nothing of it. Slots are then whole pages of the system, which
/// takes their memory back when they are discarded; compressed rows are always there.
///
/// A device gives back no memory slot by slot. There (`has_places`) slots are as many as memory
/// has room for, those of all layers in one array, and a table on the device says at which place a
/// page's slot of a layer stands (PagedKv::places); SlotPlaces is the host's side of it.
class KvCache {
 public:
  static absl::StatusOr<std::unique_ptr<KvCache>> Create(kernels::Backend& backend,
                                                         const KvLayout& layout, int32_t num_frames,
                                                         int32_t num_blocks = 0);
  /// Memory of `num_frames` pages in slots, and of compressed rows of all.
  static int64_t NumBytes(const KvLayout& layout, int64_t num_frames, int64_t num_blocks);

  const KvLayout& layout() const { return layout_; }
  int32_t num_pages() const { return num_frames_ + num_blocks_; }
  int32_t num_frames() const { return num_frames_; }
  int32_t num_blocks() const { return num_blocks_; }
  /// K and V of a page in one layer; for whoever moves them. Any thread, while nobody else writes.
  /// Not with places.
  std::span<std::byte> slot(int layer, int branch, int32_t page) const;
  /// Gives the memory of a page's slots in one layer back; their content is gone. Needs
  /// num_blocks > 0, and no places.
  void Discard(int layer, int32_t page);
  /// Null: slots stand where their page's index says. Until something is taken there, the first
  /// num_frames pages have places of their own.
  SlotPlaces* places() const { return places_.get(); }
  /// Memory of a place: the slots of all branches of a page in one layer.
  std::byte* place(int32_t place) const { return slots_.data() + place * PlaceBytes(); }
  int64_t PlaceBytes() const { return layout_.num_kv * slot_stride_; }
  /// Before a step: tells the device what has changed in places().
  void WritePlaces(kernels::Backend& backend);
  /// With the layer's compressed rows. `branch` in [0, num_kv).
  kernels::PagedKv view(int layer, int branch = 0) const;

 private:
  KvCache(const KvLayout& layout, int32_t num_frames, int32_t num_blocks);
  void MakePlaces(kernels::Backend& backend);
  std::byte* slots(int layer, int branch) const {
    if (places_ != nullptr) return slots_.data() + branch * slot_stride_;
    return slots_.data() + (int64_t{layer} * layout_.num_kv + branch) * slot_stride_ * num_pages();
  }

  KvLayout layout_;
  int32_t num_frames_;
  int32_t num_blocks_;
  int64_t slot_stride_;        // bytes from a page's slot to the next
  kernels::Memory slots_;      // [num_layers, num_kv, num_pages], without places
  kernels::Memory cmp_slots_;  // [num_layers, num_pages]; none where the plan has no such rows
  // Of `slots_` [num_frames · num_layers, num_kv], where there are places.
  std::unique_ptr<SlotPlaces> places_;
  kernels::Array<int32_t> place_table_;  // [num_pages, num_layers]
};

}  // namespace nsa::engine

#endif  // NSA_ENGINE_KV_CACHE_H_
