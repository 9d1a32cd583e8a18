#ifndef NSA_ENGINE_FIRST_TOKEN_GOAL_H_
#define NSA_ENGINE_FIRST_TOKEN_GOAL_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "engine/first_token_forecast.h"

namespace nsa::engine {

/// Who is promised a first token in time, and who is told at once that it would come too late. A
/// value, without locks.
class FirstTokenGoal {
 public:
  static constexpr char kReason[] = "first_token_goal";  // of a refusal, for metrics

  /// `goal`: from arrival on; zero: there is none.
  explicit FirstTokenGoal(absl::Duration goal) : goal_(goal) {}
  bool enabled() const { return goal_ > absl::ZeroDuration(); }

  /// Of a prompt: a long one has twice what it takes alone, where that is more.
  absl::Duration Of(int64_t num_tokens, const StepCost& cost, int64_t max_step_tokens) const;

  /// Whether a newcomer may join the line: OK, or a refusal (admission.h) with the time after which
  /// it could come. Somebody may always come where nobody is.
  absl::Status CheckArrival(ServiceLine line, const ServiceLine::Reader& reader, absl::Time arrival,
                            absl::Duration goal) const;
  /// The same of one that is due as the goal has it; nor may it make those late of its own tenant
  /// and priority who are due later, and were in time `before` (a forecast of the line). Where it
  /// may join it is appended to the line, and `before` is the new forecast.
  absl::Status Join(const ServiceLine::Reader& reader, absl::Time arrival, ServiceLine& line,
                    std::vector<Outlook>& before) const;

  /// Of one whose first token would come so much later than its goal.
  static absl::Status Refusal(absl::Duration expected, absl::Duration goal, absl::Duration late);

 private:
  absl::Duration goal_;
};

}  // namespace nsa::engine

#endif  // NSA_ENGINE_FIRST_TOKEN_GOAL_H_
