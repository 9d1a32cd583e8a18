#include "engine/first_token_forecast.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <vector>

namespace nsa::engine {
namespace {

constexpr int64_t kChunk = 100;

/// Of a machine that takes a millisecond for a prompt token, and so many for a step and a row.
StepCost CostOf(double step, double row) {
  StepCost cost;
  for (int i = 0; i < 400; ++i) {
    const int64_t rows = i % 5, tokens = i * 7 % 120;
    cost.Observe(
        rows, tokens,
        absl::Milliseconds(step + row * static_cast<double>(rows) + static_cast<double>(tokens)));
  }
  return cost;
}

class FirstTokenForecastTest : public testing::Test {
 protected:
  FirstTokenForecastTest() {
    line_.now = absl::UnixEpoch();
    line_.cost = CostOf(0, 0);
    line_.max_step_tokens = kChunk;
    line_.num_places = 100;
    line_.num_free_pages = 1000;
    line_.served = {0, 0};
  }

  /// Due in the order in which they are added.
  ServiceLine::Reader& Add(int64_t num_tokens, int64_t priority = 0, int32_t tenant = 0) {
    line_.readers.push_back({.priority = priority,
                             .tenant = tenant,
                             .due = line_.now + absl::Seconds(line_.readers.size()),
                             .num_tokens = num_tokens});
    return line_.readers.back();
  }

  /// Of each reader, half of the last step taken off.
  std::vector<double> Seconds() {
    std::vector<double> seconds;
    for (const Outlook& outlook : ForecastFirstTokens(line_)) {
      seconds.push_back(absl::ToDoubleSeconds(outlook.first_token - line_.now) - 0.05);
    }
    return seconds;
  }

  ServiceLine line_;
};

TEST_F(FirstTokenForecastTest, NothingIsKnownAndNothingTakesTime) {
  line_.cost = StepCost();
  Add(1000);
  Add(1000);
  for (const Outlook& outlook : ForecastFirstTokens(line_)) {
    EXPECT_LT(outlook.first_token - line_.now, absl::Milliseconds(1));
  }
}

TEST_F(FirstTokenForecastTest, InOrderOfPriorityThenOfWhenTheyAreDue) {
  Add(1000);
  Add(2000);
  Add(500, /*priority=*/-1);
  line_.readers[0].due += absl::Seconds(10);
  const std::vector<double> seconds = Seconds();
  EXPECT_NEAR(seconds[2], 0.5, 0.02);
  EXPECT_NEAR(seconds[1], 2.5, 0.02);
  EXPECT_NEAR(seconds[0], 3.5, 0.02);
}

TEST_F(FirstTokenForecastTest, TenantsTakeTurnsByWhatTheyWereServed) {
  Add(2000, 0, 0);
  Add(2000, 0, 1);
  std::vector<double> seconds = Seconds();
  EXPECT_NEAR(seconds[0], 3.9, 0.15) << "beside the other";
  EXPECT_NEAR(seconds[1], 4.0, 0.15);
  line_.served = {5000, 0};
  seconds = Seconds();
  EXPECT_NEAR(seconds[1], 2.0, 0.02) << "whose turn it is";
  EXPECT_NEAR(seconds[0], 4.0, 0.02);
  EXPECT_EQ(line_.TenantOf("new"), 2);
  EXPECT_EQ(line_.served[2], 0) << "as little as the least";
  EXPECT_EQ(line_.TenantOf("new"), 2);
}

TEST_F(FirstTokenForecastTest, StreamsTakeTheirPartOfEachStep) {
  line_.cost = CostOf(0, 20);
  line_.target_step_seconds = 0.1;
  line_.streams = {{.num_output = 1'000'000, .num_pages = 1}, {.num_output = 10, .num_pages = 1}};
  Add(1000);
  // Ten steps of 60 tokens and 40 ms, then of 80 and 20.
  EXPECT_NEAR(Seconds()[0], 1.0 + 0.1 * (1000 - 600) / 80, 0.05);
}

TEST_F(FirstTokenForecastTest, WhoHasBeenReadGoesOnAsAStream) {
  line_.cost = CostOf(0, 50);
  line_.target_step_seconds = 0.1;
  Add(100).num_output = 1000;
  Add(500);
  EXPECT_NEAR(Seconds()[1], 0.1 + 0.1 * 500.0 / 50, 0.05);
}

TEST_F(FirstTokenForecastTest, PlacesAndPagesAreWaitedFor) {
  line_.cost = CostOf(10, 0);
  line_.num_places = 1;
  line_.streams = {{.num_output = 200, .num_pages = 5}};
  Add(100);
  EXPECT_NEAR(Seconds()[0], 2.0 + 0.1, 0.05) << "the stream's 200 steps";
  line_.num_places = 2;
  EXPECT_NEAR(Seconds()[0], 0.1, 0.05);
  line_.num_free_pages = 3;
  line_.readers[0].num_pages = 4;
  EXPECT_NEAR(Seconds()[0], 2.0 + 0.1, 0.05) << "its pages";
  Add(100);
  EXPECT_NEAR(Seconds()[1], 2.0 + 0.2, 0.05) << "nobody overtakes";
  line_.readers[0].num_pages = 1000;
  EXPECT_NEAR(Seconds()[0], 2.0 + 0.1, 0.05) << "more than there are: when it is alone";
}

TEST_F(FirstTokenForecastTest, WhoHasAPlaceIsReadWhileOthersWaitForOne) {
  line_.num_places = 1;
  Add(100);
  Add(1000).runs = true;
  const std::vector<double> seconds = Seconds();
  EXPECT_NEAR(seconds[1], 1.0, 0.02);
  EXPECT_NEAR(seconds[0], 1.1, 0.02);
}

TEST_F(FirstTokenForecastTest, WhoWouldBeTooLateIsGivenUpAndCostsNothing) {
  Add(1000);
  Add(1000).latest = line_.now + absl::Milliseconds(1900);
  Add(1000).latest = line_.now + absl::Milliseconds(2100);
  const std::vector<Outlook> outlooks = ForecastFirstTokens(line_);
  EXPECT_FALSE(outlooks[0].is_given_up);
  EXPECT_TRUE(outlooks[1].is_given_up);
  EXPECT_NEAR(absl::ToDoubleSeconds(outlooks[1].first_token - line_.now), 2.0, 0.05);
  EXPECT_FALSE(outlooks[2].is_given_up);
  EXPECT_NEAR(absl::ToDoubleSeconds(outlooks[2].first_token - line_.now), 2.05, 0.05);
}

TEST_F(FirstTokenForecastTest, StopsWithTheLastThatIsAskedFor) {
  Add(100);
  Add(100);
  const std::vector<Outlook> outlooks = ForecastFirstTokens(line_, 0);
  EXPECT_NE(outlooks[0].first_token, absl::InfiniteFuture());
  EXPECT_EQ(outlooks[1].first_token, absl::InfiniteFuture());
}

TEST(MostStreamsTest, KeepsToTheTargetWhereItIsInReach) {
  EXPECT_NEAR(static_cast<double>(MostStreams(CostOf(10, 20), 0.25)), 12, 1);
  EXPECT_GT(MostStreams(CostOf(10, 20), 1e300), 1000);
  EXPECT_GT(MostStreams(StepCost(), 0.25), 1000) << "nothing is known";
  // A single stream takes 320 ms: as many as make that twice as much.
  EXPECT_NEAR(static_cast<double>(MostStreams(CostOf(300, 20), 0.25)), 17, 2);
}

}  // namespace
}  // namespace nsa::engine
