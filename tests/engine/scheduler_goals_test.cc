// Who is refused for the first token's goal or a deadline, and who is served: simulated time.

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "tests/engine/simulated_server.h"

namespace nsa::engine {
namespace {

using Ask = SimulatedServer::Ask;
using Record = SimulatedServer::Record;

constexpr absl::Duration kGoal = absl::Seconds(5);

/// A thousand prompt tokens a second, and streams for nothing.
constexpr SimulatedServer::Costs kReading = {.step = 0, .row = 0, .token = 1, .noise = 0};

Scheduler::Limits LimitsWith(absl::Duration goal) {
  return {.max_step_tokens = 256, .target_first_token = goal};
}

class SchedulerGoalsTest : public testing::Test {
 protected:
  explicit SchedulerGoalsTest(absl::Duration goal = kGoal, SimulatedServer::Costs costs = kReading)
      : server_(LimitsWith(goal), costs) {}

  /// Some requests, by which it knows what steps cost.
  void WarmUp(int64_t output = 1) {
    for (int i = 0; i < 5; ++i) {
      const size_t index = server_.Come({.prompt = 1000, .output = output});
      ASSERT_TRUE(server_.Await(index).status.ok());
    }
  }

  std::vector<size_t> Burst(int num_requests, const Ask& ask) {
    std::vector<size_t> indices;
    for (int i = 0; i < num_requests; ++i) indices.push_back(server_.Come(ask));
    return indices;
  }

  bool IsRefused(size_t index) const {
    return absl::IsResourceExhausted(server_.records()[index].status);
  }

  int NumInTime() const {
    return static_cast<int>(std::ranges::count_if(server_.records(), [](const Record& record) {
      return record.IsGood(kGoal, absl::InfiniteDuration());
    }));
  }

  SimulatedServer server_;
};

TEST_F(SchedulerGoalsTest, OfABurstAsManyAreTakenAsCanBeInTime) {
  WarmUp();
  const std::vector<size_t> burst = Burst(20, {.prompt = 1000});
  server_.Step();
  for (size_t i = 0; i < burst.size(); ++i) {
    EXPECT_EQ(IsRefused(burst[i]), i >= 4) << i << ": " << server_.records()[burst[i]].status;
  }
  // A fifth would have its token after 5.1 s, which is 0.9 s too much with a margin of 15 %.
  const auto hint = RetryAfterOf(server_.records()[burst[4]].status);
  ASSERT_TRUE(hint.has_value());
  EXPECT_NEAR(absl::ToDoubleSeconds(*hint), 0.9, 0.1);
  server_.Play({});
  EXPECT_EQ(NumInTime(), 5 + 4);
}

TEST_F(SchedulerGoalsTest, WhatIsUnderWayComesBeforeABurst) {
  WarmUp();
  const std::vector<int32_t> tokens(1000);
  Batch batch;
  batch.entries.emplace_back().tokens = tokens;
  server_.scheduler().NoteUnderWay(&batch, server_.now());
  const std::vector<size_t> burst = Burst(20, {.prompt = 1000});
  server_.Step();
  for (size_t i = 0; i < burst.size(); ++i) EXPECT_EQ(IsRefused(burst[i]), i >= 3) << i;
  server_.scheduler().NoteUnderWay(nullptr, server_.now());
  EXPECT_EQ(server_.scheduler().Line(server_.now()).now, server_.now());
}

TEST_F(SchedulerGoalsTest, WhoComesBackAfterTheHintIsTaken) {
  WarmUp();
  const std::vector<size_t> burst = Burst(6, {.prompt = 1000});
  server_.Step();
  ASSERT_TRUE(IsRefused(burst[4]));
  const auto hint = RetryAfterOf(server_.records()[burst[4]].status);
  ASSERT_TRUE(hint.has_value());
  const absl::Time back = server_.now() + *hint;
  while (server_.now() < back) server_.Step();
  const size_t again = server_.Come({.prompt = 1000});
  EXPECT_TRUE(server_.Await(again).IsGood(kGoal, kGoal)) << server_.records()[again].status;
}

TEST_F(SchedulerGoalsTest, AQueueThatIsTooLongIsSeenBeforeTokenizing) {
  WarmUp();
  server_.Come({.prompt = 20'000, .priority = -1});
  server_.Step();
  const size_t index = server_.Come({.prompt = 10});
  ASSERT_TRUE(server_.records()[index].refused_at_gate) << server_.records()[index].status;
  EXPECT_EQ(RefusalReasonOf(server_.records()[index].status), "first_token_goal");
  EXPECT_TRUE(RetryAfterOf(server_.records()[index].status).has_value());
}

TEST_F(SchedulerGoalsTest, BeforeTheFirstStepAllAreTakenAndWhoIsTooLateIsToldSoUnread) {
  const std::vector<size_t> burst = Burst(20, {.prompt = 1000});
  server_.Step();
  EXPECT_EQ(std::ranges::count_if(burst, [&](size_t i) { return IsRefused(i); }), 0);
  server_.Play({});
  EXPECT_EQ(NumInTime(), 5);
  EXPECT_EQ(std::ranges::count_if(burst, [&](size_t i) { return IsRefused(i); }), 15);
  EXPECT_LE(server_.now() - absl::UnixEpoch(), absl::Seconds(6)) << "nobody was read in vain";
}

TEST_F(SchedulerGoalsTest, AnIdleServerTakesWhateverComes) {
  WarmUp();
  EXPECT_TRUE(server_.Await(server_.Come({.prompt = 100'000})).status.ok());
  // It was never so slow, and what it has learned is long out of date.
  server_.set_costs({.step = 0, .row = 0, .token = 100, .noise = 0});
  EXPECT_TRUE(server_.Await(server_.Come({.prompt = 5000})).status.ok());
  server_.set_costs(kReading);
  int num_taken = 0;
  for (int i = 0; i < 40; ++i) {
    num_taken += server_.Await(server_.Come({.prompt = 1000})).status.ok() ? 1 : 0;
  }
  EXPECT_EQ(num_taken, 40);
  Burst(4, {.prompt = 1000});
  server_.Play({});
  EXPECT_TRUE(std::ranges::all_of(server_.records(), [](const Record& record) {
    return record.status.ok();
  })) << "it has recovered";
}

TEST_F(SchedulerGoalsTest, ALongPromptHasTwiceItsOwnTimeAndShortOnesGoBeforeIt) {
  WarmUp();
  Burst(3, {.prompt = 1000});
  const size_t document = server_.Come({.prompt = 20'000});  // 20 s alone
  std::vector<Ask> shorts;
  for (int i = 1; i <= 30; ++i) {
    shorts.push_back({.at = server_.now() + absl::Seconds(1.5 * i), .prompt = 1000});
  }
  server_.Play(shorts);
  const Record& record = server_.records()[document];
  ASSERT_TRUE(record.status.ok()) << record.status;
  EXPECT_LE(record.first_token, absl::Seconds(40));
  EXPECT_GE(record.first_token, absl::Seconds(30)) << "others were read before it";
  EXPECT_GE(NumInTime(), 5 + 3 + 18);
  // Of the 45 s some 23 are the document's: who would have made it late was not taken.
  const auto num_refused = std::ranges::count_if(
      server_.records(), [](const Record& r) { return absl::IsResourceExhausted(r.status); });
  EXPECT_EQ(NumInTime() + num_refused + 1, std::ssize(server_.records())) << "nobody is late";
}

TEST_F(SchedulerGoalsTest, WhoRunsBeforeIsNotJudgedByThoseBehind) {
  WarmUp();
  const std::vector<size_t> low = Burst(6, {.prompt = 1000, .priority = 2});
  server_.Step();
  ASSERT_FALSE(IsRefused(low[3]));
  ASSERT_TRUE(IsRefused(low[5]));
  // Another class, another tenant.
  const std::vector<size_t> high = Burst(2, {.prompt = 1000, .priority = 0});
  server_.Step();
  EXPECT_FALSE(IsRefused(high[0]) || IsRefused(high[1]));
  const size_t lowest = server_.Come({.prompt = 1000, .priority = 3});
  server_.Step();
  EXPECT_TRUE(IsRefused(lowest));
  server_.Play({});
  for (const size_t index : high) EXPECT_TRUE(server_.records()[index].IsGood(kGoal, kGoal));
  // Two of the low have made way, and were not read in vain.
  const auto num_low = std::ranges::count_if(
      low, [&](size_t index) { return server_.records()[index].IsGood(kGoal, kGoal); });
  EXPECT_EQ(num_low, 3);
  EXPECT_EQ(std::ranges::count_if(low, [&](size_t index) { return IsRefused(index); }), 3);
}

TEST_F(SchedulerGoalsTest, ATenantsQueueIsItsOwn) {
  WarmUp();
  const std::vector<size_t> many = Burst(8, {.prompt = 1000, .tenant = "many"});
  server_.Step();
  ASSERT_TRUE(IsRefused(many[7]));
  const size_t other = server_.Come({.prompt = 1000, .tenant = "one"});
  server_.Step();
  EXPECT_TRUE(IsRefused(server_.Come({.prompt = 1000, .tenant = "many"})) || !IsRefused(other));
  EXPECT_TRUE(server_.Await(other).IsGood(absl::Seconds(2.5), kGoal))
      << server_.records()[other].first_token;
}

TEST_F(SchedulerGoalsTest, WhatIsCachedNeedNotBeRead) {
  WarmUp();
  ASSERT_TRUE(server_.Await(server_.Come({.prompt = 8000, .shared = 7990})).status.ok());
  const std::vector<size_t> questions = Burst(20, {.prompt = 8000, .shared = 7990});
  server_.Play({});
  for (const size_t index : questions) {
    EXPECT_TRUE(server_.records()[index].IsGood(kGoal, kGoal)) << server_.records()[index].status;
  }
}

TEST_F(SchedulerGoalsTest, WhatOthersWillHaveReadNeither) {
  WarmUp();
  const std::vector<size_t> questions = Burst(10, {.prompt = 4000, .shared = 3990});
  server_.Play({});
  for (const size_t index : questions) {
    EXPECT_TRUE(server_.records()[index].IsGood(absl::Seconds(8), kGoal))
        << server_.records()[index].status;
  }
}

/// Two places, and answers of 300 tokens that take 7.5 s.
TEST(SchedulerGoalsPlacesTest, APlaceIsWaitedForByThePaceOfEndings) {
  SimulatedServer server({.max_running = 2, .target_first_token = kGoal},
                         {.step = 25, .row = 0, .token = 0.01, .noise = 0});
  for (int i = 0; i < 8; ++i) server.Await(server.Come({.prompt = 100, .output = 300}));
  server.Come({.prompt = 100, .output = 300});
  server.Come({.prompt = 100, .output = 300});
  for (int i = 0; i < 40; ++i) server.Step();  // they have run for a second
  const size_t early = server.Come({.prompt = 100, .output = 300});
  server.Step();
  EXPECT_TRUE(absl::IsResourceExhausted(server.records()[early].status));
  const auto hint = RetryAfterOf(server.records()[early].status);
  ASSERT_TRUE(hint.has_value());
  EXPECT_NEAR(absl::ToDoubleSeconds(*hint), 1.15 * 6.5 - 5, 0.3);
  for (int i = 0; i < 140; ++i) server.Step();
  const size_t later = server.Come({.prompt = 100, .output = 300});
  EXPECT_TRUE(server.Await(later).IsGood(kGoal, kGoal)) << server.records()[later].status;
}

class DeadlinesTest : public SchedulerGoalsTest {
 protected:
  DeadlinesTest() : SchedulerGoalsTest(absl::ZeroDuration()) {}
};

TEST_F(DeadlinesTest, WhoseTurnComesTooLateIsToldSoAtOnce) {
  WarmUp();
  Burst(10, {.prompt = 1000});
  server_.Step();
  const size_t hopeless = server_.Come({.prompt = 1000, .deadline = absl::Seconds(6)});
  const size_t perhaps = server_.Come({.prompt = 1000, .deadline = absl::Seconds(8)});
  const size_t first = server_.Come({.prompt = 1000, .priority = -1, .deadline = absl::Seconds(2)});
  server_.Step();
  const absl::Status& status = server_.records()[hopeless].status;
  EXPECT_TRUE(absl::IsDeadlineExceeded(status)) << status;
  EXPECT_FALSE(RetryAfterOf(status).has_value());
  EXPECT_TRUE(absl::IsUnknown(server_.records()[perhaps].status)) << "it might be read faster";
  EXPECT_TRUE(server_.Await(first).status.ok());
  server_.Play({});
  EXPECT_TRUE(absl::IsDeadlineExceeded(server_.records()[perhaps].status));
}

TEST_F(DeadlinesTest, APlaceMayBecomeFreeAtAnyTime) {
  SimulatedServer server({.max_running = 1}, {.step = 25, .row = 0, .token = 0.01, .noise = 0});
  server.Await(server.Come({.prompt = 100, .output = 300}));
  server.Come({.prompt = 100, .output = 300});
  for (int i = 0; i < 10; ++i) server.Step();
  const size_t index = server.Come({.prompt = 100, .deadline = absl::Seconds(2)});
  for (int i = 0; i < 40; ++i) server.Step();
  EXPECT_TRUE(absl::IsUnknown(server.records()[index].status));
}

TEST_F(DeadlinesTest, AnIdleServerTriesAgain) {
  server_.set_costs({.step = 0, .row = 0, .token = 100, .noise = 0});
  EXPECT_TRUE(server_.Await(server_.Come({.prompt = 1000})).status.ok());
  server_.set_costs(kReading);
  std::vector<Ask> asks;
  for (int i = 1; i <= 10; ++i) {
    asks.push_back({.at = server_.now() + absl::Seconds(20 * i),
                    .prompt = 1000,
                    .deadline = absl::Seconds(5)});
  }
  server_.Play(asks);
  EXPECT_GE(NumInTime(), 9) << "the first may be given up, by which it learns";
}

/// A stream takes 20 ms of each step: beyond twelve the target is missed.
TEST(PlacesTest, NoMoreRunThanGapsAllow) {
  SimulatedServer server({.target_inter_token = absl::Milliseconds(250)},
                         {.step = 5, .row = 20, .token = 0.1, .noise = 0});
  for (int i = 0; i < 5; ++i) server.Await(server.Come({.prompt = 100, .output = 20}));
  for (int i = 0; i < 40; ++i) server.Come({.prompt = 100, .output = 50});
  int32_t most = 0;
  while (server.Step()) most = std::max(most, server.scheduler().num_running());
  EXPECT_GE(most, 10);
  for (const Record& record : server.records()) {
    EXPECT_TRUE(record.status.ok());
    EXPECT_LE(record.longest_gap, absl::Milliseconds(300));
  }
}

TEST(PlacesTest, ATargetOutOfReachDoesNotMakeThemWaitForOneAnother) {
  SimulatedServer server({.target_inter_token = absl::Milliseconds(250)},
                         {.step = 400, .row = 20, .token = 1, .noise = 0});
  for (int i = 0; i < 30; ++i) server.Come({.prompt = 100, .output = 30});
  int32_t most = 0;
  while (server.Step()) most = std::max(most, server.scheduler().num_running());
  EXPECT_GE(most, 15);
}

/// Those before it fill steps, and a place would do nothing for it.
TEST(PlacesTest, WhoCannotBeReadYetWaits) {
  SimulatedServer server({.max_step_tokens = 256}, kReading);
  for (int i = 0; i < 3; ++i) server.Come({.prompt = 1000});
  const size_t high = server.Come({.prompt = 1000, .priority = -1});
  server.Step();
  EXPECT_EQ(server.scheduler().num_running(), 1);
  EXPECT_EQ(server.scheduler().num_waiting(), 3);
  EXPECT_LT(server.Await(high).first_token, absl::Seconds(1.1));
}

}  // namespace
}  // namespace nsa::engine
