#include "engine/cache_spill.h"

#include <cstddef>
#include <span>
#include <vector>

#include "engine/faults.h"

namespace nsa::engine {

absl::StatusOr<std::unique_ptr<SpillFile>> OpenSpillFile(const EngineOptions& options,
                                                         const KvCache& cache) {
  if (cache.num_blocks() == 0) return nullptr;
  const KvLayout& layout = cache.layout();
  const auto parts_of = [&cache](int32_t page) {
    std::vector<std::span<std::byte>> parts;
    for (int layer = 0; layer < cache.layout().num_layers; ++layer) {
      for (int branch = 0; branch < cache.layout().num_kv; ++branch) {
        parts.push_back(cache.slot(layer, branch, page));
      }
    }
    return parts;
  };
  return SpillFile::Create(
      {.folder = options.kv_spill_dir,
       .block_bytes = layout.SlotsBytes(),
       .num_blocks = cache.num_blocks(),
       .num_layers = layout.num_layers,
       .io = options.faults != nullptr ? MakeFaultyIo(options.faults) : nullptr},
      parts_of);
}

void DiscardVacated(PagePool& pool, KvCache& cache) {
  // What has got memory again, or is about to, keeps it.
  const auto discard = [&](Slot slot) {
    if (!pool.has_frame(slot.page) && pool.slots().state(slot) == SlotTable::State::kAbsent) {
      cache.Discard(slot.layer, slot.page);
    }
  };
  for (const int32_t page : pool.TakeVacated()) {
    for (int layer = 0; layer < cache.layout().num_layers; ++layer) discard({layer, page});
  }
  for (const Slot slot : pool.slots().TakeVacated()) discard(slot);
}

}  // namespace nsa::engine
