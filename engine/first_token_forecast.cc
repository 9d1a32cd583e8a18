#include "engine/first_token_forecast.h"

#include <algorithm>
#include <cmath>
#include <deque>
#include <functional>
#include <optional>
#include <queue>
#include <tuple>
#include <utility>

#include "engine/step_budget.h"

namespace nsa::engine {
namespace {

/// Plays the line forward. Steps are not played one by one: between two events (a prompt is read, a
/// stream ends, another tenant's turn comes) all are alike, so that time is a fluid of them.
class Simulation {
 public:
  explicit Simulation(const ServiceLine& line)
      : line_(line), served_(line.served), num_free_pages_(line.num_free_pages) {
    outlooks_.resize(line.readers.size());
    left_.resize(line.readers.size());
    std::vector<size_t> order(line.readers.size());
    for (size_t i = 0; i < order.size(); ++i) order[i] = i;
    std::ranges::stable_sort(order, {}, [&](size_t i) {
      const ServiceLine::Reader& reader = line.readers[i];
      return std::tuple(reader.priority, reader.tenant, reader.due);
    });
    for (const size_t i : order) {
      const ServiceLine::Reader& reader = line.readers[i];
      left_[i] = static_cast<double>(std::max<int64_t>(1, reader.num_tokens));
      const auto tenant = static_cast<size_t>(reader.tenant);
      if (groups_.empty() || groups_.back().priority != reader.priority ||
          groups_.back().tenant != tenant) {
        groups_.push_back({reader.priority, tenant, {}, {}});
      }
      (reader.runs ? groups_.back().running : groups_.back().waiting).push_back(i);
      num_placed_ += reader.runs ? 1 : 0;
    }
    for (const ServiceLine::Stream& stream : line.streams) {
      AddStream(stream.num_output, stream.num_pages);
    }
  }

  std::vector<Outlook> Run(int64_t last) {
    while (last < 0 || !IsDone(static_cast<size_t>(last))) {
      const Turn turn = Next();
      if (turn.group == nullptr) {
        if (streams_.empty()) break;  // all are done
        AdvanceToEnd(std::numeric_limits<double>::infinity(), StepSeconds(0));
        continue;
      }
      if (turn.waits && GivesUp(*turn.group)) continue;
      Read(*turn.group, turn.waits);
    }
    return std::move(outlooks_);
  }

 private:
  /// Readers of one priority and tenant, each list by when they are due.
  struct Group {
    int64_t priority;
    size_t tenant;
    std::deque<size_t> running;
    std::deque<size_t> waiting;
    using List = std::deque<size_t> Group::*;
  };
  struct Turn {
    Group* group = nullptr;
    bool waits = false;  // the first of its waiting
  };
  struct End {
    double step;
    int64_t num_pages;
    bool operator>(const End& other) const { return step > other.step; }
  };

  bool IsDone(size_t i) const {
    return outlooks_[i].is_given_up || outlooks_[i].first_token != absl::InfiniteFuture();
  }
  absl::Time Now(double more = 0) const { return line_.now + absl::Seconds(seconds_ + more); }
  double num_streams() const { return static_cast<double>(streams_.size()); }

  double StepSeconds(double num_tokens) const {
    return std::max(1e-9, line_.cost.Seconds(num_streams(), num_tokens));
  }

  /// Prompt tokens of a step, as StepBudget would have them.
  double ChunkTokens() const {
    const auto most = static_cast<double>(line_.max_step_tokens);
    const double token_seconds = line_.cost.prompt_token_seconds();
    if (streams_.empty() || token_seconds <= 0) return most;
    const double seconds = line_.target_step_seconds - StepSeconds(0);
    const double least = std::min<double>(StepBudget::kMinChunk, most);
    return std::clamp(seconds / token_seconds, least, std::max(least, most - num_streams()));
  }

  /// By which the heads of lists are taken in turn.
  std::tuple<int64_t, int64_t, absl::Time> KeyOf(const Group& group, Group::List list) const {
    const size_t head = (group.*list).front();
    return {group.priority, served_[group.tenant], line_.readers[head].due};
  }
  /// The group among whose `list` heads is the first in line.
  Group* First(Group::List list) {
    Group* first = nullptr;
    for (Group& group : groups_) {
      if ((group.*list).empty()) continue;
      if (first == nullptr || KeyOf(group, list) < KeyOf(*first, list)) first = &group;
    }
    return first;
  }

  Turn Next() {
    Group* const running = First(&Group::running);
    Group* const waiting = First(&Group::waiting);
    if (waiting == nullptr) return {running};
    const ServiceLine::Reader& next = line_.readers[waiting->waiting.front()];
    const int64_t num_there = num_placed_ + static_cast<int64_t>(streams_.size());
    const bool fits = num_there < line_.num_places && next.num_pages <= num_free_pages_;
    const bool is_first =
        running == nullptr || KeyOf(*waiting, &Group::waiting) < KeyOf(*running, &Group::running);
    // Who fits nowhere begins when there is nobody else.
    if (fits ? is_first : num_there == 0) return {waiting, true};
    return {running};
  }

  bool GivesUp(Group& group) {
    const size_t i = group.waiting.front();
    const double chunk = ChunkTokens();
    const absl::Time first_token = Now(left_[i] / chunk * StepSeconds(chunk));
    if (first_token <= line_.readers[i].latest) return false;
    outlooks_[i] = {first_token, true};
    group.waiting.pop_front();
    return true;
  }

  void Read(Group& group, bool waits) {
    if (waits) {
      group.running.push_front(group.waiting.front());
      group.waiting.pop_front();
      num_free_pages_ -= line_.readers[group.running.front()].num_pages;
      ++num_placed_;
    }
    const size_t i = group.running.front();
    const double chunk = ChunkTokens();
    const double seconds = StepSeconds(chunk);
    const double tokens = std::min(left_[i], TokensOfTurn(group));
    const double steps = AdvanceToEnd(tokens / chunk, seconds);
    const double num_read = steps * chunk;
    served_[group.tenant] += static_cast<int64_t>(num_read);
    left_[i] -= num_read;
    if (left_[i] > 1e-6) return;
    group.running.pop_front();
    --num_placed_;
    // Chunks begin and end with steps, of which half a one is lost.
    outlooks_[i].first_token = Now(seconds / 2);
    AddStream(line_.readers[i].num_output - 1, line_.readers[i].num_pages);
  }

  /// Before it is another tenant's turn.
  double TokensOfTurn(const Group& group) const {
    double tokens = std::numeric_limits<double>::infinity();
    for (const Group& other : groups_) {
      const bool has_readers = !other.running.empty() || !other.waiting.empty();
      if (&other == &group || other.priority != group.priority || !has_readers) continue;
      const int64_t ahead = served_[other.tenant] - served_[group.tenant];
      tokens = std::min(tokens,
                        static_cast<double>(std::max<int64_t>(0, ahead) + line_.max_step_tokens));
    }
    return tokens;
  }

  void AddStream(int64_t num_output, int64_t num_pages) {
    if (num_output <= 0) {
      num_free_pages_ += num_pages;
      return;
    }
    streams_.push({step_ + static_cast<double>(num_output), num_pages});
  }

  /// Up to so many steps, or to the first end of a stream; gives the number.
  double AdvanceToEnd(double steps, double seconds) {
    if (!streams_.empty()) steps = std::min(steps, streams_.top().step - step_);
    step_ += steps;
    seconds_ += steps * seconds;
    while (!streams_.empty() && streams_.top().step <= step_ + 1e-9) {
      num_free_pages_ += streams_.top().num_pages;
      streams_.pop();
    }
    return steps;
  }

  const ServiceLine& line_;
  std::vector<int64_t> served_;
  int64_t num_free_pages_;
  int64_t num_placed_ = 0;  // readers that run
  double step_ = 0;         // steps from now
  double seconds_ = 0;
  std::vector<Outlook> outlooks_;
  std::vector<double> left_;  // tokens to be read, by reader
  std::vector<Group> groups_;
  std::priority_queue<End, std::vector<End>, std::greater<>> streams_;
};

}  // namespace

int32_t ServiceLine::TenantOf(const std::string& name) {
  const auto [it, is_new] = tenants.try_emplace(name, static_cast<int32_t>(served.size()));
  if (is_new) served.push_back(served.empty() ? 0 : std::ranges::min(served));
  return it->second;
}

std::vector<Outlook> ForecastFirstTokens(const ServiceLine& line, int64_t last) {
  return Simulation(line).Run(last);
}

int64_t MostStreams(const StepCost& cost, double target_step_seconds) {
  const double row = cost.Seconds(1, 0) - cost.Seconds(0, 0);
  const double target = std::max(target_step_seconds, 2 * cost.Seconds(1, 0));
  if (!cost.knows_rows() || row <= 0 || !std::isfinite(target))
    return std::numeric_limits<int32_t>::max();
  const double streams = (target - cost.Seconds(0, 0)) / row;
  return static_cast<int64_t>(
      std::clamp(streams, 1.0, double{std::numeric_limits<int32_t>::max()}));
}

}  // namespace nsa::engine
