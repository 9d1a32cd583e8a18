#include "engine/step_cost.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <random>

namespace nsa::engine {
namespace {

/// A machine of so many milliseconds a step, a decode row and a prompt token, a tenth uncertain.
class Machine {
 public:
  Machine(double step, double row, double token) : step_(step), row_(row), token_(token) {}
  double Milliseconds(double rows, double tokens) const {
    return step_ + row_ * rows + token_ * tokens;
  }
  void Play(StepCost& cost, int num_steps, int max_rows, int max_tokens) {
    std::uniform_int_distribution<int> rows(0, max_rows), tokens(0, max_tokens);
    std::normal_distribution<double> noise(1, 0.1);
    for (int step = 0; step < num_steps; ++step) {
      const int num_rows = rows(random_), num_tokens = tokens(random_);
      cost.Observe(num_rows, num_tokens,
                   noise(random_) * absl::Milliseconds(Milliseconds(num_rows, num_tokens)));
    }
  }

 private:
  double step_, row_, token_;
  std::mt19937 random_{7};
};

void ExpectKnows(const StepCost& cost, const Machine& machine, double rows, double tokens,
                 double share) {
  const double expected = machine.Milliseconds(rows, tokens) / 1000;
  EXPECT_NEAR(cost.Seconds(rows, tokens), expected, share * expected) << rows << " " << tokens;
}

TEST(StepCostTest, NothingIsKnownAtFirst) {
  EXPECT_EQ(StepCost().Seconds(10, 1000), 0);
  EXPECT_EQ(StepCost().SecondsAlone(1000, 512), 0);
}

TEST(StepCostTest, LearnsThePartsOfSlowAndFastMachines) {
  for (Machine machine : {Machine(10, 4, 1), Machine(300, 20, 6), Machine(4, 0.01, 0.002)}) {
    StepCost cost;
    machine.Play(cost, 60, 16, 400);
    ExpectKnows(cost, machine, 0, 512, 0.15);
    ExpectKnows(cost, machine, 16, 200, 0.15);
    ExpectKnows(cost, machine, 12, 0, 0.25);
  }
}

TEST(StepCostTest, OneStepTellsOfItsLike) {
  StepCost cost;
  cost.Observe(0, 512, absl::Milliseconds(512));
  EXPECT_NEAR(cost.Seconds(0, 512), 0.512, 0.03);
  EXPECT_NEAR(cost.SecondsAlone(5120, 512), 5.12, 0.3);
}

TEST(StepCostTest, WhatIsNotSeenIsNotForgotten) {
  Machine machine(10, 4, 1);
  StepCost cost;
  machine.Play(cost, 60, 16, 400);
  const double token = cost.prompt_token_seconds();
  machine.Play(cost, 5000, 8, 0);
  EXPECT_NEAR(cost.prompt_token_seconds(), token, 0.1 * token);
  ExpectKnows(cost, machine, 8, 200, 0.15);
}

TEST(StepCostTest, FollowsAMachineThatBecomesSlower) {
  StepCost cost;
  Machine(10, 4, 1).Play(cost, 100, 16, 400);
  Machine slower(20, 8, 2);
  slower.Play(cost, 30, 16, 400);
  ExpectKnows(cost, slower, 8, 200, 0.2);
}

/// A process that was stopped for a minute is not slower than before.
TEST(StepCostTest, ASurpriseIsMostlyAnAccident) {
  Machine machine(10, 4, 1);
  StepCost cost;
  machine.Play(cost, 100, 16, 400);
  cost.Observe(8, 200, absl::Minutes(1));
  EXPECT_LT(cost.Seconds(8, 200), 2 * machine.Milliseconds(8, 200) / 1000);
  machine.Play(cost, 20, 16, 400);
  ExpectKnows(cost, machine, 8, 200, 0.2);
}

/// A hundred thousand steps, with streaks of alike ones, of a machine that no two are alike on.
TEST(StepCostTest, StaysCloseForLong) {
  std::mt19937 random(3);
  StepCost cost;
  std::normal_distribution<double> noise(1, 0.3);
  int64_t rows = 0, tokens = 0;
  double worst = 0;
  for (int step = 0; step < 100'000; ++step) {
    if (random() % 64 == 0) rows = static_cast<int64_t>(random() % 16);
    if (random() % 32 == 0) tokens = static_cast<int64_t>(random() % 3 * (random() % 250));
    const double expected = 8 + 3 * static_cast<double>(rows) + static_cast<double>(tokens);
    if (rows + tokens == 0) continue;
    cost.Observe(rows, tokens, std::max(0.5, noise(random)) * absl::Milliseconds(expected));
    if (step < 200) continue;
    worst = std::max(worst, 1000 * cost.Seconds(8, 100) / (8 + 3 * 8 + 100));
  }
  EXPECT_LT(worst, 3);
}

TEST(StepCostTest, StepsWithoutRowsOrDurationDoNoHarm) {
  StepCost cost;
  cost.Observe(0, 0, absl::Seconds(5));
  EXPECT_EQ(cost.Seconds(1, 1), 0);
  for (int i = 0; i < 100; ++i) cost.Observe(4, 0, absl::ZeroDuration());
  EXPECT_LT(cost.Seconds(4, 0), 1e-3);
  Machine machine(10, 4, 1);
  machine.Play(cost, 200, 16, 400);
  ExpectKnows(cost, machine, 8, 200, 0.2);
}

}  // namespace
}  // namespace nsa::engine
