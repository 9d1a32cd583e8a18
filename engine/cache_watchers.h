#ifndef NSA_ENGINE_CACHE_WATCHERS_H_
#define NSA_ENGINE_CACHE_WATCHERS_H_

#include <memory>
#include <vector>

#include "engine/cache_events.h"
#include "engine/scheduler.h"

namespace nsa::engine {

/// Who watches the prefix cache. While there is nobody the cache notes nothing. Engine thread.
class CacheWatchers {
 public:
  explicit CacheWatchers(Scheduler* scheduler) : scheduler_(scheduler) {}

  /// Tells them what is known now; who lets go of his watcher hears no more.
  void Add(const std::vector<std::weak_ptr<CacheWatcher>>& watchers);
  /// Tells all what has changed since the last call.
  void Deliver();

 private:
  Scheduler* scheduler_;
  std::vector<std::weak_ptr<CacheWatcher>> watchers_;
};

}  // namespace nsa::engine

#endif  // NSA_ENGINE_CACHE_WATCHERS_H_
