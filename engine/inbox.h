#ifndef NSA_ENGINE_INBOX_H_
#define NSA_ENGINE_INBOX_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "engine/cache_events.h"
#include "engine/sequence.h"

namespace nsa::engine {

/// What other threads want of the engine's, until its thread takes it. Under the engine's lock.
struct Inbox {
  std::vector<std::unique_ptr<Sequence>> sequences;
  std::vector<std::string> aborts;
  std::vector<std::function<void(int32_t)>> flushes;
  std::vector<std::weak_ptr<CacheWatcher>> watchers;
  bool empty() const {
    return sequences.empty() && aborts.empty() && flushes.empty() && watchers.empty();
  }
};

}  // namespace nsa::engine

#endif  // NSA_ENGINE_INBOX_H_
