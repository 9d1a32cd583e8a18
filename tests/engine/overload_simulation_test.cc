// Goodput under more arrivals than can be served, of the real scheduler and gate in simulated time.

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <iostream>
#include <map>
#include <random>
#include <vector>

#include "tests/engine/simulated_server.h"

namespace nsa::engine {
namespace {

constexpr absl::Duration kGoal = absl::Seconds(5);
constexpr absl::Duration kGap = absl::Seconds(1);
constexpr double kSeconds = 160;

using Ask = SimulatedServer::Ask;
using Record = SimulatedServer::Record;

Scheduler::Limits LimitsWith(absl::Duration goal) {
  return {.target_inter_token = absl::Milliseconds(250),
          .target_first_token = goal,
          .priority_ageing = absl::Seconds(30)};
}

/// Of the bench: prompts of 200 to 800 tokens, answers of 20 to 60, clients of some patience.
class Clients {
 public:
  explicit Clients(uint64_t seed) : random_(seed) {}

  Ask One(absl::Time at) {
    return {
        .at = at, .prompt = prompt_(random_), .output = output_(random_), .deadline = 6 * kGoal};
  }
  std::vector<Ask> AtRate(double rate, double seconds, absl::Time start = absl::UnixEpoch()) {
    std::exponential_distribution<double> gap(rate);
    std::vector<Ask> asks;
    for (double at = gap(random_); at < seconds; at += gap(random_)) {
      asks.push_back(One(start + absl::Seconds(at)));
    }
    return asks;
  }

 private:
  std::mt19937_64 random_;
  std::uniform_int_distribution<int64_t> prompt_{200, 800}, output_{20, 60};
};

struct Outcome {
  double goodput = 0;        // requests a second
  double least_goodput = 0;  // of the windows
  int64_t num_late = 0;      // served or given up, and not good
};

Outcome Play(absl::Duration goal, SimulatedServer::Costs costs, double rate) {
  SimulatedServer server(LimitsWith(goal), costs);
  server.Play(Clients(5).AtRate(rate, kSeconds));
  constexpr double kWindow = 20;
  std::vector<double> windows(static_cast<size_t>(kSeconds / kWindow), 0);
  Outcome outcome;
  for (const Record& record : server.records()) {
    if (record.IsGood(kGoal, kGap)) {
      const double at = absl::ToDoubleSeconds(record.ask.at - absl::UnixEpoch());
      windows[static_cast<size_t>(at / kWindow)] += 1 / kWindow;
      outcome.goodput += 1 / kSeconds;
    } else if (!absl::IsResourceExhausted(record.status)) {
      ++outcome.num_late;
    }
  }
  outcome.least_goodput = std::ranges::min(windows);
  return outcome;
}

/// Requests a second with eight users who ask as soon as they have their answer.
double Capacity(SimulatedServer::Costs costs) {
  SimulatedServer server(LimitsWith(absl::ZeroDuration()), costs);
  Clients clients(3);
  for (int user = 0; user < 8; ++user) server.Come(clients.One(server.now()));
  int64_t num_ended = 0;
  while (server.now() < absl::UnixEpoch() + absl::Seconds(kSeconds)) {
    server.Step();
    const int64_t ended = std::ranges::count_if(
        server.records(), [](const Record& record) { return record.status.ok(); });
    for (; num_ended < ended; ++num_ended) server.Come(clients.One(server.now()));
  }
  return static_cast<double>(num_ended) / kSeconds;
}

class OverloadSimulationTest : public testing::TestWithParam<SimulatedServer::Costs> {};

/// The line: with three times the arrivals that it can serve, 90 % of the best goodput.
TEST_P(OverloadSimulationTest, GoodputStaysUnderOverload) {
  const double capacity = Capacity(GetParam());
  std::map<double, Outcome> outcomes;
  double best = 0;
  for (const double share : {0.8, 1.0, 1.5, 3.0, 6.0}) {
    const Outcome outcome = outcomes[share] = Play(kGoal, GetParam(), share * capacity);
    if (share <= 3) best = std::max(best, outcome.goodput);
    std::cout << share << " of " << capacity << " requests/s: good " << outcome.goodput
              << ", in the worst 20 s " << outcome.least_goodput << ", late " << outcome.num_late
              << "\n";
  }
  for (const double share : {3.0, 6.0}) {
    const Outcome& outcome = outcomes[share];
    EXPECT_GE(outcome.goodput, 0.9 * best) << share;
    // It does not swing.
    EXPECT_GE(outcome.least_goodput, 0.6 * outcome.goodput) << share;
    EXPECT_LE(static_cast<double>(outcome.num_late), 0.1 * outcome.goodput * kSeconds) << share;
  }
  EXPECT_GE(outcomes[3.0].goodput, 0.9 * capacity);
  // Below its capacity it hardly refuses: what comes is served.
  EXPECT_GE(outcomes[0.8].goodput, 0.9 * 0.8 * capacity);
}

/// Milliseconds of a step, a decode row and a prompt token, and their noise.
INSTANTIATE_TEST_SUITE_P(Machines, OverloadSimulationTest,
                         testing::Values(SimulatedServer::Costs{8, 3, 1, 0.1},
                                         SimulatedServer::Costs{8, 3, 1, 0.3},
                                         SimulatedServer::Costs{60, 2, 1, 0.1},
                                         SimulatedServer::Costs{5, 10, 1.5, 0.1}));

/// Without the goal prompts are read for clients that give up.
TEST(NoGoalTest, GoodputIsLost) {
  const SimulatedServer::Costs costs = {8, 3, 1, 0.1};
  const double capacity = Capacity(costs);
  EXPECT_LT(Play(absl::ZeroDuration(), costs, 3 * capacity).goodput, 0.2 * capacity);
}

}  // namespace
}  // namespace nsa::engine
