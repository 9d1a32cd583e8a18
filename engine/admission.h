#ifndef NSA_ENGINE_ADMISSION_H_
#define NSA_ENGINE_ADMISSION_H_

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/time/time.h"

/// Who may still join the queue, and when the others should ask again. No locks.
namespace nsa::engine {

/// What waits, in all and by tenant.
class QueueCounts {
 public:
  struct Count {
    int64_t num_requests = 0;
    int64_t num_tokens = 0;
  };

  void Add(std::string_view tenant, int64_t num_requests, int64_t num_tokens);
  /// One of them came at `time` and has not run yet.
  void NoteArrival(absl::Time time) { oldest_ = std::min(oldest_, time); }
  void Clear();
  /// InfiniteFuture: none.
  absl::Time oldest() const { return oldest_; }
  const Count& total() const { return total_; }
  Count Of(std::string_view tenant) const;

 private:
  Count total_;
  absl::Time oldest_ = absl::InfiniteFuture();
  absl::flat_hash_map<std::string, Count> tenants_;
};

struct QueueLimits {
  QueueCounts::Count all;
  QueueCounts::Count tenant;  // 0: no limit of its own
};

/// ResourceExhausted, which names the limit, where so much more would exceed one. Where nothing
/// waits one request may always come, whatever its size.
absl::Status CheckQueue(const QueueCounts& counts, const QueueLimits& limits,
                        std::string_view tenant, const QueueCounts::Count& more);

/// When a place in the queue becomes free, judged by the pace at which requests lately ended.
class RetryEstimate {
 public:
  void OnEnd(absl::Time now);
  /// In [100 ms, 60 s]; a second as long as nothing is known.
  absl::Duration Delay(absl::Time now) const;

 private:
  absl::Time last_end_ = absl::InfinitePast();
  double seconds_between_ends_ = 0;  // 0: not known
};

/// A delay as hints have it: in [100 ms, 60 s].
absl::Duration ClampRetryDelay(absl::Duration delay);

/// A hint that travels with a status.
absl::Status WithRetryAfter(absl::Status status, absl::Duration delay);
std::optional<absl::Duration> RetryAfterOf(const absl::Status& status);

/// A request that is not served, for a reason that metrics know by a word, and may come back.
absl::Status WithRefusal(absl::Status status, std::string_view reason, absl::Duration delay);
/// The word; none: the status is no refusal.
std::optional<std::string> RefusalReasonOf(const absl::Status& status);

}  // namespace nsa::engine

#endif  // NSA_ENGINE_ADMISSION_H_
