#ifndef NSA_ENGINE_CACHE_SPILL_H_
#define NSA_ENGINE_CACHE_SPILL_H_

#include <memory>

#include "absl/status/statusor.h"
#include "engine/engine.h"
#include "engine/kv_cache.h"
#include "engine/page_pool.h"
#include "engine/page_tier.h"
#include "kernels/backend.h"

namespace nsa::engine {

/// What the blocks of `cache` are in, which outlives it, as `backend` does: memory of the host
/// where slots have places, else a file. Null where it has none.
absl::StatusOr<std::unique_ptr<PageTier>> OpenPageTier(const EngineOptions& options,
                                                       kernels::Backend& backend,
                                                       const KvCache& cache);

/// Gives back the memory of pages and slots that have lost it since the last call.
void DiscardVacated(PagePool& pool, KvCache& cache);

}  // namespace nsa::engine

#endif  // NSA_ENGINE_CACHE_SPILL_H_
