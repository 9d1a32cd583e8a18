#ifndef NSA_ENGINE_GATE_H_
#define NSA_ENGINE_GATE_H_

#include <string_view>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "engine/admission.h"
#include "engine/engine.h"
#include "engine/first_token_forecast.h"
#include "engine/first_token_goal.h"
#include "engine/inbox.h"
#include "engine/scheduler.h"

namespace nsa::engine {

/// Stands before the inbox: the limits of the queue and the goal for first tokens, by what the
/// scheduler had when it was last looked at. Under the engine's lock.
class Gate {
 public:
  explicit Gate(const QueueLimits& limits) : limits_(limits) {}

  /// A refusal (admission.h) where so many more of a tenant exceed a limit.
  absl::Status Check(std::string_view tenant, const QueueCounts::Count& more, absl::Time now) const;
  /// A refusal where what is before it alone makes the first token too late, however short its
  /// prompt turns out to be.
  absl::Status CheckGoal(const Arrival& arrival, absl::Time now) const;

  /// So many have come into the inbox.
  void Add(std::string_view tenant, const QueueCounts::Count& more, absl::Time arrival);
  void OnEnd(absl::Time now) { retry_estimate_.OnEnd(now); }
  /// On the engine thread, with the inbox as it is.
  void Update(const Scheduler& scheduler, const Inbox& inbox, absl::Time now);

  /// In the inbox, and with the scheduler.
  const QueueCounts& queued() const { return queued_; }

 private:
  const QueueLimits limits_;
  QueueCounts queued_;
  RetryEstimate retry_estimate_;
  FirstTokenGoal goal_{absl::ZeroDuration()};
  ServiceLine line_;  // where there is a goal
};

}  // namespace nsa::engine

#endif  // NSA_ENGINE_GATE_H_
