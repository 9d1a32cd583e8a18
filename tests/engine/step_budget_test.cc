#include "engine/step_budget.h"

#include <gtest/gtest.h>

namespace nsa::engine {
namespace {

TEST(StepBudgetTest, WithoutATargetOrStreamsAllTokensAreThere) {
  const StepBudget none(512, absl::InfiniteDuration());
  EXPECT_EQ(none.PromptTokens(0), 512);
  EXPECT_EQ(none.PromptTokens(100), 412);
  EXPECT_EQ(none.PromptTokens(600), 0);
  const StepBudget targeted(512, absl::Milliseconds(50));
  EXPECT_EQ(targeted.PromptTokens(0), 512);
}

/// A machine with 10 ms for decode rows and half a millisecond for a prompt token.
TEST(StepBudgetTest, ChunksComeToFillTheTarget) {
  StepBudget budget(512, absl::Milliseconds(60));
  int64_t chunk = budget.PromptTokens(4);
  EXPECT_LT(chunk, 512);  // careful at first
  for (int step = 0; step < 20; ++step) {
    budget.Observe(4, 0, absl::Milliseconds(10));
    budget.Observe(4, chunk, absl::Milliseconds(10) + chunk * absl::Microseconds(500));
    chunk = budget.PromptTokens(4);
  }
  EXPECT_NEAR(static_cast<double>(chunk), 100, 1);
  // Tokens become twice as dear, as contexts grow: chunks follow within some steps.
  for (int step = 0; step < 20; ++step) {
    budget.Observe(4, chunk, absl::Milliseconds(10) + chunk * absl::Milliseconds(1));
    chunk = budget.PromptTokens(4);
  }
  EXPECT_NEAR(static_cast<double>(chunk), 50, 2);
}

TEST(StepBudgetTest, PromptsGetOnHoweverSlowTheMachine) {
  StepBudget budget(512, absl::Milliseconds(1));
  for (int step = 0; step < 10; ++step) {
    budget.Observe(8, 0, absl::Seconds(1));
    budget.Observe(8, 16, absl::Seconds(3));
  }
  EXPECT_EQ(budget.PromptTokens(8), StepBudget::kMinChunk);
  EXPECT_EQ(budget.PromptTokens(505), 7);
}

TEST(StepBudgetTest, AFastMachineIsLimitedByTokensAlone) {
  StepBudget budget(512, absl::Seconds(10));
  budget.Observe(2, 64, absl::ZeroDuration());
  budget.Observe(0, 64, absl::Nanoseconds(1));
  EXPECT_EQ(budget.PromptTokens(2), 510);
}

}  // namespace
}  // namespace nsa::engine
