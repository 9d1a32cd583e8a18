#include "engine/admission.h"

#include <algorithm>
#include <utility>

#include "absl/strings/cord.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "engine/text.h"

namespace nsa::engine {
namespace {

constexpr char kRetryKey[] = "nsa/retry-after-ms";
constexpr char kReasonKey[] = "nsa/refusal-reason";
constexpr absl::Duration kUnknownDelay = absl::Seconds(1);
constexpr absl::Duration kLeastDelay = absl::Milliseconds(100);
constexpr absl::Duration kLongestDelay = absl::Seconds(60);
// Of the newest interval in the mean.
constexpr double kWeight = 0.2;

absl::Status Full(std::string_view whose, const char* what, int64_t waiting, int64_t more,
                  int64_t limit) {
  return absl::ResourceExhaustedError(absl::StrCat("the queue", View(whose), " is full: ", waiting,
                                                   " ", what, " wait, ", more,
                                                   " more exceed the limit of ", limit));
}

absl::Status CheckOne(std::string_view whose, const QueueCounts::Count& waiting,
                      const QueueCounts::Count& more, const QueueCounts::Count& limit) {
  if (waiting.num_requests == 0) return absl::OkStatus();
  if (limit.num_requests > 0 && waiting.num_requests + more.num_requests > limit.num_requests) {
    return Full(whose, "requests", waiting.num_requests, more.num_requests, limit.num_requests);
  }
  if (limit.num_tokens > 0 && waiting.num_tokens + more.num_tokens > limit.num_tokens) {
    return Full(whose, "tokens", waiting.num_tokens, more.num_tokens, limit.num_tokens);
  }
  return absl::OkStatus();
}

}  // namespace

void QueueCounts::Add(std::string_view tenant, int64_t num_requests, int64_t num_tokens) {
  Count& own = tenants_[View(tenant)];
  for (Count* count : {&own, &total_}) {
    count->num_requests += num_requests;
    count->num_tokens += num_tokens;
  }
}

void QueueCounts::Clear() {
  total_ = {};
  oldest_ = absl::InfiniteFuture();
  tenants_.clear();
}

QueueCounts::Count QueueCounts::Of(std::string_view tenant) const {
  const auto found = tenants_.find(View(tenant));
  return found == tenants_.end() ? Count{} : found->second;
}

absl::Status CheckQueue(const QueueCounts& counts, const QueueLimits& limits,
                        std::string_view tenant, const QueueCounts::Count& more) {
  if (absl::Status all = CheckOne("", counts.total(), more, limits.all); !all.ok()) return all;
  return CheckOne(" of this tenant", counts.Of(tenant), more, limits.tenant);
}

void RetryEstimate::OnEnd(absl::Time now) {
  if (last_end_ != absl::InfinitePast()) {
    const double seconds = absl::ToDoubleSeconds(now - last_end_);
    seconds_between_ends_ = seconds_between_ends_ == 0
                                ? seconds
                                : (1 - kWeight) * seconds_between_ends_ + kWeight * seconds;
  }
  last_end_ = now;
}

absl::Duration RetryEstimate::Delay(absl::Time now) const {
  if (seconds_between_ends_ == 0) return kUnknownDelay;
  // Where nothing has ended for long, nothing will at once.
  const absl::Duration since = now - last_end_;
  return ClampRetryDelay(std::max(absl::Seconds(seconds_between_ends_), since));
}

absl::Duration ClampRetryDelay(absl::Duration delay) {
  return std::clamp(delay, kLeastDelay, kLongestDelay);
}

absl::Status WithRetryAfter(absl::Status status, absl::Duration delay) {
  status.SetPayload(kRetryKey, absl::Cord(absl::StrCat(absl::ToInt64Milliseconds(delay))));
  return status;
}

std::optional<absl::Duration> RetryAfterOf(const absl::Status& status) {
  const auto payload = status.GetPayload(kRetryKey);
  int64_t milliseconds = 0;
  if (!payload.has_value() || !absl::SimpleAtoi(std::string(*payload), &milliseconds)) {
    return std::nullopt;
  }
  return absl::Milliseconds(milliseconds);
}

absl::Status WithRefusal(absl::Status status, std::string_view reason, absl::Duration delay) {
  status.SetPayload(kReasonKey, absl::Cord(View(reason)));
  return WithRetryAfter(std::move(status), delay);
}

std::optional<std::string> RefusalReasonOf(const absl::Status& status) {
  const auto reason = status.GetPayload(kReasonKey);
  if (!reason.has_value()) return std::nullopt;
  return std::string(*reason);
}

}  // namespace nsa::engine
