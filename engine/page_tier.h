#ifndef NSA_ENGINE_PAGE_TIER_H_
#define NSA_ENGINE_PAGE_TIER_H_

#include <cstdint>
#include <functional>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace nsa::engine {

/// A page's K and V on the way between its frame and its block, or those of one layer on the way
/// back.
struct PageMove {
  int32_t page = 0;
  int32_t block = 0;
  int layer = -1;       // −1: of all layers
  bool out = false;     // from the frame to the block; else back
  absl::Status status;  // when it has ended
};

/// Where pages go that need not be in memory: a file on the CPU (SpillFile), memory of the host for
/// a device (HostTier). Moves run beside the engine thread and may end in any order. While one
/// runs, nothing writes the page, and where it is a move back nothing reads it. All methods are
/// called by the engine thread and do not block.
class PageTier {
 public:
  virtual ~PageTier() = default;
  virtual void Start(const PageMove& move) = 0;
  /// Moves that have ended since the last call.
  virtual std::vector<PageMove> TakeEnded() = 0;
  /// What these blocks held is nobody's any more, and must not stay readable.
  virtual void Erase(const std::vector<int32_t>& blocks) = 0;
  /// Told by a thread of the tier's when a move has ended; set before the first.
  virtual void set_on_ended(const std::function<void()>& /*on_ended*/) {}
  /// How long to wait before TakeEnded is asked again, where nobody is told.
  virtual absl::Duration ask_after() const { return absl::InfiniteDuration(); }
};

}  // namespace nsa::engine

#endif  // NSA_ENGINE_PAGE_TIER_H_
