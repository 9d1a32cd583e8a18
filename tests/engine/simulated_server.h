#ifndef NSA_TESTS_ENGINE_SIMULATED_SERVER_H_
#define NSA_TESTS_ENGINE_SIMULATED_SERVER_H_

#include <algorithm>
#include <cstdint>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "engine/admission.h"
#include "engine/gate.h"
#include "engine/inbox.h"
#include "engine/scheduler.h"
#include "tests/engine/fakes.h"

namespace nsa::engine {

/// The engine's loop with its own scheduler and gate, a clock of its own, and steps that take what
/// a formula says.
class SimulatedServer {
 public:
  struct Ask {
    absl::Time at = absl::InfiniteFuture();  // for Come: now
    int64_t prompt = 0;
    int64_t output = 1;
    int32_t priority = 0;
    std::string tenant = "";
    absl::Duration deadline = absl::InfiniteDuration();
    int64_t shared = 0;  // tokens that it begins with like all others that share some
  };
  /// What became of one.
  struct Record {
    Ask ask;
    absl::Status status = absl::UnknownError("not ended");
    bool refused_at_gate = false;
    absl::Duration first_token = absl::InfiniteDuration();  // since it came
    absl::Duration longest_gap = absl::ZeroDuration();
    bool IsGood(absl::Duration goal, absl::Duration gap) const {
      return status.ok() && first_token <= goal && longest_gap <= gap;
    }
  };
  /// Milliseconds.
  struct Costs {
    double step = 8;
    double row = 3;
    double token = 1;
    double noise = 0.1;  // standard deviation, as a share
  };

  SimulatedServer(const Scheduler::Limits& limits, Costs costs, int32_t num_pages = 4000,
                  int64_t max_queued = 256)
      : costs_(costs),
        pool_(num_pages),
        scheduler_(&pool_, limits),
        gate_({{max_queued, int64_t{1} << 40}, {}}) {}

  absl::Time now() const { return now_; }
  Scheduler& scheduler() { return scheduler_; }
  const std::vector<Record>& records() const { return records_; }
  void set_costs(Costs costs) { costs_ = costs; }

  /// Lets requests come, in order of time, and plays until `end`, or until all have ended.
  void Play(const std::vector<Ask>& asks, absl::Time end = absl::InfiniteFuture()) {
    size_t next = 0;
    while (now_ < end) {
      for (; next < asks.size() && asks[next].at <= now_; ++next) Come(asks[next]);
      if (!Step()) {
        if (next == asks.size()) break;
        now_ = asks[next].at;
      }
    }
  }

  /// Until it has ended.
  const Record& Await(size_t index) {
    while (absl::IsUnknown(records_[index].status) && Step()) {
    }
    return records_[index];
  }

  /// Comes now, or is refused at the gate; gives its record's index.
  size_t Come(Ask ask) {
    ask.at = std::min(std::max(ask.at, absl::UnixEpoch()), now_);
    const size_t index = records_.size();
    Record& record = records_.emplace_back();
    record.ask = ask;
    const Arrival arrival = {
        .prompt_bytes = 4 * ask.prompt, .tenant = ask.tenant, .priority = ask.priority};
    absl::Status status =
        gate_.Check(ask.tenant, {.num_requests = 1, .num_tokens = ask.prompt}, now_);
    if (status.ok()) status = gate_.CheckGoal(arrival, now_);
    if (!status.ok()) {
      record.status = std::move(status);
      record.refused_at_gate = true;
      return index;
    }
    Request request;
    request.id = std::to_string(index);
    request.prompt_token_ids = PromptOf(ask, index);
    request.priority = ask.priority;
    request.tenant = ask.tenant;
    request.deadline = ask.at + ask.deadline;
    auto sequence = std::make_unique<Sequence>(
        std::move(request), std::make_shared<RecordingSink>(), tokenizer_, ask.output, 1, ask.at);
    gate_.Add(ask.tenant, {.num_requests = 1, .num_tokens = ask.prompt}, ask.at);
    scheduler_.Add(std::move(sequence));
    return index;
  }

  /// False where nothing was there to do.
  bool Step() {
    scheduler_.Judge(now_);
    std::vector<absl::Status> reasons;
    const auto over = scheduler_.RemoveIf([&](const Sequence& sequence) {
      const absl::Status why = scheduler_.WhyOver(sequence, now_);
      if (!why.ok()) reasons.push_back(why);
      return !why.ok();
    });
    for (size_t i = 0; i < over.size(); ++i) End(*over[i], reasons[i]);
    Batch batch = scheduler_.Schedule(now_);
    gate_.Update(scheduler_, {}, now_);
    if (batch.entries.empty()) return false;
    Run(batch);
    gate_.Update(scheduler_, {}, now_);
    return true;
  }

 private:
  static std::vector<int32_t> PromptOf(const Ask& ask, size_t index) {
    std::vector<int32_t> tokens;
    for (int64_t i = 0; i < ask.prompt; ++i) {
      // Behind what is shared a number that nobody else has.
      const int64_t digit = i - ask.shared;
      const bool is_own = digit >= 0 && digit < 8;
      tokens.push_back(static_cast<int32_t>(1 + (is_own ? (index >> (3 * digit)) % 8 : i % 50)));
    }
    return tokens;
  }

  Record& RecordOf(const Sequence& sequence) { return records_[std::stoull(sequence.id())]; }

  void End(const Sequence& sequence, const absl::Status& status) {
    RecordOf(sequence).status = status;
    if (status.ok()) gate_.OnEnd(now_);
  }

  void Run(const Batch& batch) {
    int64_t num_rows = 0, num_tokens = 0;
    for (const BatchEntry& entry : batch.entries) {
      (entry.decodes ? num_rows : num_tokens) += std::ssize(entry.tokens);
    }
    std::normal_distribution<double> noise(1, costs_.noise);
    const double milliseconds = costs_.step + costs_.row * static_cast<double>(num_rows) +
                                costs_.token * static_cast<double>(num_tokens);
    const absl::Duration duration =
        absl::Milliseconds(milliseconds * std::max(0.5, noise(random_)));
    now_ += duration;
    std::vector<const Sequence*> ended;
    for (const BatchEntry& entry : batch.entries) {
      Sequence& sequence = scheduler_.running(entry.sequence_index);
      if (!entry.samples) continue;
      Record& record = RecordOf(sequence);
      if (sequence.num_generated() == 0) {
        record.first_token = now_ - sequence.arrival;
      } else {
        record.longest_gap = std::max(record.longest_gap, now_ - sequence.last_token);
      }
      if (sequence.AcceptToken(60, now_)) ended.push_back(&sequence);
    }
    scheduler_.Complete(batch);
    scheduler_.ObserveStep(num_rows, num_tokens, duration);
    for (const auto& sequence : scheduler_.RemoveIf(
             [&](const Sequence& s) { return std::ranges::find(ended, &s) != ended.end(); })) {
      End(*sequence, absl::OkStatus());
    }
  }

  LetterTokenizer tokenizer_;
  Costs costs_;
  PagePool pool_;
  Scheduler scheduler_;
  Gate gate_;
  absl::Time now_ = absl::UnixEpoch();
  std::mt19937_64 random_{20};
  std::vector<Record> records_;
};

}  // namespace nsa::engine

#endif  // NSA_TESTS_ENGINE_SIMULATED_SERVER_H_
