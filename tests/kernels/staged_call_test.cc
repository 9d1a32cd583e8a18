#include "kernels/cpu/staged_call.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <random>
#include <vector>

namespace nsa::kernels::cpu {
namespace {

/// Stages of so many tasks each; keeps what has run, and whether what was needed had.
class TestCall final : public StagedCall {
 public:
  TestCall(std::vector<int64_t> num_tasks, bool in_order)
      : num_tasks_(std::move(num_tasks)), in_order_(in_order), num_run_(num_tasks_.size()) {}

  /// A stage of another call that must be over before this one's `stage`.
  void Need(int stage, const TestCall& other, int of_other) {
    needs_.push_back({stage, &other, of_other});
  }
  bool IsOver(int stage) const {
    return num_run_[static_cast<size_t>(stage)] == num_tasks_[static_cast<size_t>(stage)];
  }
  bool has_failed() const { return has_failed_; }

  int num_stages() const override { return static_cast<int>(num_tasks_.size()); }
  int64_t NumTasks(int stage) const override { return num_tasks_[static_cast<size_t>(stage)]; }
  bool Follows(int /*stage*/, int /*earlier*/) const override { return in_order_; }
  void RunTask(int stage, int64_t task, int worker) override {
    for (int earlier = 0; earlier < stage && in_order_; ++earlier) Expect(IsOver(earlier));
    for (const Needed& need : needs_) {
      if (need.stage == stage) Expect(need.call->IsOver(need.of_call));
    }
    Expect(task >= 0 && task < NumTasks(stage) && worker >= 0);
    // Tasks of different length, so that workers change places.
    std::minstd_rand random(static_cast<unsigned>(31 * stage + task + 1));
    volatile int64_t sum = 0;
    for (int64_t i = random() % 2000; i > 0; --i) sum = sum + i;
    num_run_[static_cast<size_t>(stage)].fetch_add(1);
  }

 private:
  struct Needed {
    int stage;
    const TestCall* call;
    int of_call;
  };
  void Expect(bool holds) {
    if (!holds) has_failed_ = true;
  }

  std::vector<int64_t> num_tasks_;
  bool in_order_;
  std::vector<Needed> needs_;
  std::vector<std::atomic<int64_t>> num_run_;
  std::atomic<bool> has_failed_ = false;
};

class TaskListTest : public testing::TestWithParam<int> {};

TEST_P(TaskListTest, AStageBeginsWhenWhatItFollowsIsOver) {
  Context context(GetParam());
  for (int round = 0; round < 200; ++round) {
    const ListScope scope(context);
    TestCall chain({7, 0, 3, 1}, true);
    TestCall free({6, 2}, false);
    TestCall end({1}, true);
    TaskList tasks(scope);
    const int of_chain = tasks.AddCall(chain);
    const int of_free = tasks.AddCall(free);
    const int of_end = tasks.AddCall(end);
    tasks.FollowAll(of_end, of_chain, of_free + 2);
    tasks.Follow(of_free + 1, of_chain + 2);
    free.Need(1, chain, 2);
    for (const int stage : {0, 2, 3}) end.Need(0, chain, stage);
    for (const int stage : {0, 1}) end.Need(0, free, stage);
    tasks.Add(of_chain);
    tasks.Add(of_free, 2);
    tasks.AddAll(of_chain + 1, of_chain + 3);
    tasks.Add(of_free, 1);
    tasks.Add(of_free);
    tasks.Add(of_free + 1);
    tasks.Add(of_chain + 3);
    tasks.Add(of_end);
    tasks.Run(context.pool, round % 2 == 0);
    for (const TestCall* call : {&chain, &free, &end}) {
      EXPECT_FALSE(call->has_failed());
      for (int stage = 0; stage < call->num_stages(); ++stage) EXPECT_TRUE(call->IsOver(stage));
    }
    EXPECT_EQ(tasks.Seconds(of_chain) > 0, round % 2 == 0);
    EXPECT_EQ(tasks.Seconds(of_chain + 1), 0);
  }
}

TEST_P(TaskListTest, OneCallRunsAllItsStages) {
  Context context(GetParam());
  const ListScope scope(context);
  TestCall call({100, 1, 50}, true);
  RunStages(context, scope, call);
  EXPECT_FALSE(call.has_failed());
  for (const int stage : {0, 1, 2}) EXPECT_TRUE(call.IsOver(stage));
}

INSTANTIATE_TEST_SUITE_P(Threads, TaskListTest, testing::Values(1, 2, 3, 8));

// Else workers could wait for each other.
TEST(TaskListDeathTest, AStageIsNotHandedOutBeforeWhatItFollows) {
  Context context(1);
  const ListScope scope(context);
  TestCall call({2, 1}, true);
  TaskList tasks(scope);
  tasks.AddCall(call);
  tasks.Add(0, 1);
  EXPECT_DEATH(tasks.Add(1), "");
  EXPECT_DEATH(tasks.Run(context.pool), "");  // not all tasks were added
}

}  // namespace
}  // namespace nsa::kernels::cpu
