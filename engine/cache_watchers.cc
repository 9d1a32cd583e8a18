#include "engine/cache_watchers.h"

#include <utility>

namespace nsa::engine {

void CacheWatchers::Add(const std::vector<std::weak_ptr<CacheWatcher>>& watchers) {
  if (watchers.empty()) return;
  Deliver();  // what the snapshot holds already must not come after it
  const auto known =
      std::make_shared<const std::vector<CacheEvent>>(scheduler_->BeginCacheEvents());
  for (const auto& added : watchers) {
    const auto watcher = added.lock();
    if (watcher == nullptr) continue;
    watcher->OnCacheEvents(known, /*is_snapshot=*/true);
    watchers_.push_back(added);
  }
  if (watchers_.empty()) scheduler_->EndCacheEvents();  // all had left before they were heard
}

void CacheWatchers::Deliver() {
  if (watchers_.empty()) return;
  auto events = std::make_shared<const std::vector<CacheEvent>>(scheduler_->TakeCacheEvents());
  if (events->empty()) return;
  std::erase_if(watchers_, [&](const std::weak_ptr<CacheWatcher>& held) {
    const auto watcher = held.lock();
    if (watcher != nullptr) watcher->OnCacheEvents(events, /*is_snapshot=*/false);
    return watcher == nullptr;
  });
  if (watchers_.empty()) scheduler_->EndCacheEvents();
}

}  // namespace nsa::engine
