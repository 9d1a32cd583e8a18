#include "engine/first_token_goal.h"

#include <algorithm>
#include <cstddef>
#include <iterator>
#include <utility>
#include <vector>

#include "absl/strings/str_format.h"
#include "engine/admission.h"

namespace nsa::engine {
namespace {

// Of the time that a long prompt takes alone.
constexpr double kTimesAlone = 2;
// Of what a newcomer is expected to wait: others may come who run before it, and steps vary. Who
// has joined is held to the forecast itself, so that nobody joins only to be turned away.
constexpr double kMargin = 1.15;

}  // namespace

absl::Duration FirstTokenGoal::Of(int64_t num_tokens, const StepCost& cost,
                                  int64_t max_step_tokens) const {
  const double alone = cost.SecondsAlone(num_tokens, max_step_tokens);
  return std::max(goal_, absl::Seconds(kTimesAlone * alone));
}

absl::Status FirstTokenGoal::Refusal(absl::Duration expected, absl::Duration goal,
                                     absl::Duration late) {
  return WithRefusal(absl::ResourceExhaustedError(absl::StrFormat(
                         "the first token would come after %.1f s, and the goal is %.1f s",
                         absl::ToDoubleSeconds(expected), absl::ToDoubleSeconds(goal))),
                     kReason, ClampRetryDelay(late));
}

absl::Status FirstTokenGoal::CheckArrival(ServiceLine line, const ServiceLine::Reader& reader,
                                          absl::Time arrival, absl::Duration goal) const {
  if (line.readers.empty() && line.streams.empty()) return absl::OkStatus();
  line.readers.push_back(reader);
  const std::vector<Outlook> outlooks = ForecastFirstTokens(line, std::ssize(line.readers) - 1);
  const absl::Duration wait = outlooks.back().first_token - arrival;
  if (kMargin * wait <= goal) return absl::OkStatus();
  return Refusal(wait, goal, kMargin * wait - goal);
}

absl::Status FirstTokenGoal::Join(const ServiceLine::Reader& reader, absl::Time arrival,
                                  ServiceLine& line, std::vector<Outlook>& before) const {
  const bool is_alone = line.readers.empty() && line.streams.empty();
  line.readers.push_back(reader);
  std::vector<Outlook> after = ForecastFirstTokens(line);
  const absl::Duration wait = after.back().first_token - arrival;
  const absl::Duration goal = reader.due - arrival;
  absl::Duration late = kMargin * wait - goal;
  for (size_t i = 0; i < before.size(); ++i) {
    const ServiceLine::Reader& other = line.readers[i];
    const bool makes_way = other.priority == reader.priority && other.tenant == reader.tenant &&
                           other.due > reader.due;
    const bool was_in_time = !before[i].is_given_up && before[i].first_token <= other.due;
    if (makes_way && was_in_time) late = std::max(late, after[i].first_token - other.due);
  }
  if (is_alone || late <= absl::ZeroDuration()) {
    before = std::move(after);
    return absl::OkStatus();
  }
  line.readers.pop_back();
  return Refusal(wait, goal, late);
}

}  // namespace nsa::engine
