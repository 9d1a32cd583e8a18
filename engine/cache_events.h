#ifndef NSA_ENGINE_CACHE_EVENTS_H_
#define NSA_ENGINE_CACHE_EVENTS_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "kernels/tensor.h"

namespace nsa::engine {

inline constexpr int64_t kCachePageTokens = kernels::kPageSize;

/// A page that can be found again, or no longer. Names are hashes of what the page holds and of all
/// before it, so they stay the same when a page comes back.
struct CacheEvent {
  uint64_t hash = 0;
  bool stored = false;  // false: removed; what follows is then empty
  bool has_parent = false;
  uint64_t parent_hash = 0;  // of the page that it continues; where there is none it begins a text
  std::vector<int32_t> tokens;  // [kCachePageTokens]
};
using CacheEvents = std::shared_ptr<const std::vector<CacheEvent>>;

/// Who wants to know what the prefix cache holds: routers, which send a prompt to where its
/// beginning is. Of pages that requests with the server's own attention and without a salt share;
/// others can be nobody's reason to come. Called by the engine thread; must not block.
class CacheWatcher {
 public:
  virtual ~CacheWatcher() = default;
  /// First `events` is all that is known (`is_snapshot`; may be empty; parents before those that
  /// continue them), then what changed, in order and at most once a step.
  virtual void OnCacheEvents(const CacheEvents& events, bool is_snapshot) = 0;
};

}  // namespace nsa::engine

#endif  // NSA_ENGINE_CACHE_EVENTS_H_
