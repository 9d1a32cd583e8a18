#include "engine/cache_spill.h"

#include <cstddef>
#include <span>
#include <vector>

#include "engine/faults.h"
#include "engine/host_tier.h"
#include "engine/spill_file.h"

namespace nsa::engine {

absl::StatusOr<std::unique_ptr<PageTier>> OpenPageTier(const EngineOptions& options,
                                                       kernels::Backend& backend,
                                                       const KvCache& cache) {
  if (cache.num_blocks() == 0) return nullptr;
  if (cache.places() != nullptr) return HostTier::Create(backend, cache, options.faults);
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
  for (const Slot slot : pool.TakeVacated()) {
    if (cache.places() == nullptr) cache.Discard(slot.layer, slot.page);
  }
}

}  // namespace nsa::engine
