// The part of the scheduler that looks ahead: who will have the first token in time.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <span>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/strings/str_format.h"
#include "absl/time/time.h"
#include "engine/first_token_forecast.h"
#include "engine/first_token_goal.h"
#include "engine/scheduler.h"

namespace nsa::engine {
namespace {

/// Whether it has not run yet: what it waits for may be called off and nothing is lost.
bool IsNew(const Sequence& sequence) {
  return sequence.first_scheduled == absl::InfiniteFuture() && sequence.pages.empty();
}

int64_t PagesShared(const Sequence& a, const Sequence& b) {
  const auto end = std::ranges::mismatch(a.tokens, b.tokens).in1;
  return (end - a.tokens.begin()) / kernels::kPageSize;
}

}  // namespace

absl::Time Scheduler::DueOf(const Sequence& sequence) const {
  if (!goal_.enabled()) return sequence.arrival;
  return sequence.arrival +
         goal_.Of(sequence.num_prompt_tokens(), step_cost_, limits_.max_step_tokens);
}

int64_t Scheduler::num_places() const {
  const double target = absl::ToDoubleSeconds(limits_.target_inter_token);
  return std::min<int64_t>(limits_.max_running, MostStreams(step_cost_, target));
}

bool Scheduler::OthersAreRead(const Sequence& next, absl::Time now) const {
  // Where sequences run without all of their pages, who is before it may wait for these.
  if (next.decoding() || limits_.residency.enabled()) return false;
  int64_t num_tokens = 0;
  for (const auto& sequence : running_) {
    const Sequence& reader = *sequence;
    const bool reads = !reader.decoding() && !reader.suspended &&
                       reader.interruption.num_rows == 0 && reader.sink->Ready();
    if (!reads || IsServedBefore(next, reader, now)) continue;
    num_tokens += reader.num_pending();
    if (num_tokens >= limits_.max_step_tokens) return true;
  }
  return false;
}

int64_t Scheduler::OutputOf(const Sequence& sequence) const {
  const auto mean = static_cast<int64_t>(std::ceil(mean_output_));
  return std::clamp<int64_t>(sequence.max_tokens - sequence.num_generated(), 1,
                             std::max<int64_t>(1, mean));
}

void Scheduler::NoteEnd(const Sequence& sequence) {
  constexpr double kNewest = 0.1;
  const auto num_tokens = static_cast<double>(sequence.num_known_generated());
  if (num_tokens == 0) return;
  mean_output_ += (mean_output_ == 0 ? 1 : kNewest) * (num_tokens - mean_output_);
}

bool Scheduler::FindKnown(Sequence& sequence) const {
  const PrefixChain chain = ChainOf(sequence);
  const std::span<const int32_t> tokens = Findable(sequence);
  int64_t num_pages = std::ssize(cache_.Find(chain, tokens).pages);
  if (chain.enabled) {
    for (const auto* list : {&running_, &waiting_}) {
      for (const auto& other : *list) {
        // Whoever of two is read first leaves what they share to the other.
        const bool comes_before = other->num_known >= 0 && other.get() != &sequence;
        if (!comes_before || std::ssize(tokens) <= num_pages * kernels::kPageSize) continue;
        if (ChainOf(*other).hash != chain.hash) continue;
        num_pages = std::max(num_pages, PagesShared(sequence, *other));
      }
    }
  }
  num_pages = std::min(num_pages, (std::ssize(tokens) - 1) / kernels::kPageSize);
  const int64_t num_known = num_pages * kernels::kPageSize;
  return num_known > std::exchange(sequence.num_known, std::max(num_known, sequence.num_known));
}

ServiceLine::Reader Scheduler::ReaderOf(const Sequence& sequence, absl::Time now,
                                        ServiceLine& line) const {
  ServiceLine::Reader reader;
  reader.priority = PriorityOf(sequence, now);
  reader.tenant = line.TenantOf(sequence.request.tenant);
  line.served[static_cast<size_t>(reader.tenant)] = shares_.Served(sequence.request.tenant);
  reader.due = DueOf(sequence);
  reader.num_tokens = sequence.num_pending();
  reader.num_pages = FramesWanted(sequence);
  if (IsNew(sequence)) {
    const int64_t num_known = std::max<int64_t>(0, sequence.num_known);
    reader.num_tokens = std::max<int64_t>(1, sequence.num_queued_tokens() - num_known);
    reader.num_pages -= num_known / kernels::kPageSize;
  }
  reader.num_output = OutputOf(sequence);
  return reader;
}

void Scheduler::NoteUnderWay(const Batch* batch, absl::Time began) {
  busy_until_ = absl::InfinitePast();
  if (batch == nullptr) return;
  double num_decode_rows = 0, num_prompt_tokens = 0;
  for (const BatchEntry& entry : batch->entries) {
    (entry.decodes ? num_decode_rows : num_prompt_tokens) +=
        static_cast<double>(entry.tokens.size());
  }
  busy_until_ = began + absl::Seconds(step_cost_.Seconds(num_decode_rows, num_prompt_tokens));
}

ServiceLine Scheduler::Line(absl::Time now, std::vector<Sequence*>* sequences) const {
  ServiceLine line;
  line.now = std::max(now, busy_until_);
  line.cost = step_cost_;
  line.max_step_tokens = limits_.max_step_tokens;
  line.target_step_seconds = absl::ToDoubleSeconds(limits_.target_inter_token);
  line.num_places = num_places();
  line.num_free_pages = cache_.num_available();
  const auto add = [&](Sequence& sequence, bool runs) {
    line.readers.push_back(ReaderOf(sequence, now, line));
    line.readers.back().runs = runs;
    if (sequences != nullptr) sequences->push_back(&sequence);
  };
  for (const auto& sequence : running_) {
    line.num_free_pages -= FramesPromised(*sequence);
    if (sequence->decoding()) {
      line.streams.push_back({OutputOf(*sequence), std::ssize(sequence->pages)});
    } else if (sequence->sink->Ready()) {
      add(*sequence, true);
    } else {
      --line.num_places;  // a slow reader's, which only has its place
    }
  }
  for (const auto& sequence : waiting_) {
    if (sequence->is_judged) add(*sequence, false);
  }
  return line;
}

void Scheduler::Judge(absl::Time now) {
  refused_.clear();
  if (goal_.enabled()) JudgeByGoal(now);
  for (auto& sequence : waiting_) sequence->is_judged = true;
  JudgeByDeadlines(now);
}

void Scheduler::JudgeByGoal(absl::Time now) {
  std::vector<Sequence*> sequences;
  ServiceLine line = Line(now, &sequences);
  const auto is_held_to_it = [](const Sequence& sequence) {
    return IsNew(sequence) && sequence.index == 0;
  };
  for (size_t i = 0; i < sequences.size(); ++i) {
    if (is_held_to_it(*sequences[i])) line.readers[i].latest = line.readers[i].due;
  }
  std::vector<Outlook> outlooks = ForecastFirstTokens(line);
  for (size_t i = 0; i < sequences.size(); ++i) {
    // More may be known of its prompt by now: it has another look in the next step.
    if (!outlooks[i].is_given_up || FindKnown(*sequences[i])) continue;
    const absl::Time arrival = sequences[i]->arrival;
    const absl::Duration late = outlooks[i].first_token - line.readers[i].due;
    refused_[sequences[i]] = FirstTokenGoal::Refusal(outlooks[i].first_token - arrival,
                                                     line.readers[i].due - arrival, late);
  }
  absl::flat_hash_set<const ChoiceGroup*> refused_groups;
  for (auto& sequence : waiting_) {
    if (sequence->is_judged || refused_groups.contains(sequence->group.get())) continue;
    FindKnown(*sequence);
    const ServiceLine::Reader reader = ReaderOf(*sequence, now, line);
    if (!is_held_to_it(*sequence)) {
      line.readers.push_back(reader);
      outlooks = ForecastFirstTokens(line);
      continue;
    }
    const absl::Status status = goal_.Join(reader, sequence->arrival, line, outlooks);
    if (status.ok()) continue;
    sequence->num_known = -1;  // nobody begins behind what it would have read
    refused_[sequence.get()] = status;
    refused_groups.insert(sequence->group.get());
  }
}

void Scheduler::JudgeByDeadlines(absl::Time now) {
  const auto has_deadline = [](const auto& sequence) {
    return IsNew(*sequence) && sequence->request.deadline != absl::InfiniteFuture();
  };
  // Where nothing runs, what is known of steps may be long out of date: one comes, and tells.
  if (running_.empty() || std::ranges::none_of(waiting_, has_deadline)) return;
  for (auto& sequence : waiting_) {
    if (IsNew(*sequence) && sequence->num_known < 0) FindKnown(*sequence);
  }
  std::vector<Sequence*> sequences;
  ServiceLine line = Line(now, &sequences);
  // As well as it can go: those before it are read, then they end.
  line.streams.clear();
  line.num_places = line.num_free_pages = std::numeric_limits<int32_t>::max();
  for (size_t i = 0; i < sequences.size(); ++i) {
    line.readers[i].num_output = 1;
    if (!IsNew(*sequences[i])) continue;
    const absl::Time deadline = sequences[i]->request.deadline;
    line.readers[i].latest = now + kOptimism * (deadline - now);
  }
  const std::vector<Outlook> outlooks = ForecastFirstTokens(line);
  for (size_t i = 0; i < sequences.size(); ++i) {
    if (!outlooks[i].is_given_up || FindKnown(*sequences[i])) continue;
    refused_.try_emplace(
        sequences[i],
        absl::DeadlineExceededError(absl::StrFormat(
            "the deadline in %.1f s is too near to read what is before it and %d tokens",
            absl::ToDoubleSeconds(sequences[i]->request.deadline - now),
            sequences[i]->num_prompt_tokens())));
  }
}

}  // namespace nsa::engine
