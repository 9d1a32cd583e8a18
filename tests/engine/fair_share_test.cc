#include "engine/fair_share.h"

#include <gtest/gtest.h>

#include <string>

namespace nsa::engine {
namespace {

TEST(FairShareTest, TheLeastServedIsNext) {
  FairShare share;
  share.Arrive("a");
  share.Arrive("b");
  share.Serve("a", 100);
  EXPECT_EQ(share.Served("a"), 100);
  EXPECT_LT(share.Served("b"), share.Served("a"));
}

TEST(FairShareTest, NobodySavesUpByResting) {
  FairShare share;
  share.Arrive("busy");
  share.Serve("busy", 1000);
  share.Arrive("late");
  EXPECT_EQ(share.Served("late"), 1000);
  share.Serve("busy", 500);
  share.Leave("late");
  share.Arrive("late");  // once more: from the least of those that are there
  EXPECT_EQ(share.Served("late"), 1500);
}

TEST(FairShareTest, NorByLeavingAnEmptyServer) {
  FairShare share;
  share.Arrive("a");
  share.Serve("a", 70);
  share.Leave("a");
  share.Arrive("b");
  EXPECT_EQ(share.Served("b"), 70);
  share.Arrive("a");
  EXPECT_EQ(share.Served("a"), 70);
}

TEST(FairShareTest, ATenantStaysAsLongAsARequestOfIts) {
  FairShare share;
  share.Arrive("a");
  share.Arrive("a");
  share.Serve("a", 5);
  share.Leave("a");
  share.Serve("a", 5);
  EXPECT_EQ(share.Served("a"), 10);
  share.Leave("a");
  share.Serve("a", 5);  // of a step that was under way: nobody is there any more
  EXPECT_EQ(share.Served("a"), 10);
}

/// Two tenants, of which one sends ten times as much: both get the same.
TEST(FairShareTest, AFloodGetsNoMoreThanItsShare) {
  FairShare share;
  int64_t served[2] = {0, 0};
  const std::string names[2] = {"flood", "calm"};
  for (const std::string& name : names) share.Arrive(name);
  for (int turn = 0; turn < 1000; ++turn) {
    const int next = share.Served(names[0]) <= share.Served(names[1]) ? 0 : 1;
    const int64_t tokens = next == 0 ? 700 : 70;
    share.Serve(names[next], tokens);
    served[next] += tokens;
  }
  EXPECT_NEAR(static_cast<double>(served[0]), static_cast<double>(served[1]), 1000);
}

}  // namespace
}  // namespace nsa::engine
