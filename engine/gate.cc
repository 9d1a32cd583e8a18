#include "engine/gate.h"

#include <string>
#include <utility>

namespace nsa::engine {

absl::Status Gate::Check(std::string_view tenant, const QueueCounts::Count& more,
                         absl::Time now) const {
  const absl::Status status = CheckQueue(queued_, limits_, tenant, more);
  return status.ok() ? status : WithRefusal(status, "queue_full", retry_estimate_.Delay(now));
}

absl::Status Gate::CheckGoal(const Arrival& arrival, absl::Time now) const {
  if (!goal_.enabled()) return absl::OkStatus();
  ServiceLine line = line_;
  ServiceLine::Reader reader;
  reader.priority = arrival.priority;
  reader.tenant = line.TenantOf(std::string(arrival.tenant));
  reader.num_tokens = 1;
  reader.num_pages = 1;
  reader.due = now + goal_.Of(1, line.cost, line.max_step_tokens);
  // A token is a byte at least: the goal is no lower than that of the prompt.
  const absl::Duration goal = goal_.Of(arrival.prompt_bytes, line.cost, line.max_step_tokens);
  return goal_.CheckArrival(std::move(line), reader, now, goal);
}

void Gate::Add(std::string_view tenant, const QueueCounts::Count& more, absl::Time arrival) {
  queued_.NoteArrival(arrival);
  queued_.Add(tenant, more.num_requests, more.num_tokens);
}

void Gate::Update(const Scheduler& scheduler, const Inbox& inbox, absl::Time now) {
  queued_.Clear();
  for (const auto* list : {&scheduler.waiting(), &inbox.sequences}) {
    for (const auto& sequence : *list) {
      queued_.Add(sequence->request.tenant, 1, sequence->num_queued_tokens());
      if (sequence->waits_for_first_step()) queued_.NoteArrival(sequence->arrival);
    }
  }
  goal_ = scheduler.goal();
  if (goal_.enabled()) line_ = scheduler.Line(now);
}

}  // namespace nsa::engine
