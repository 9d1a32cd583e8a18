#include "kernels/thread_pool.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

namespace nsa::kernels {
namespace {

class ThreadPoolTest : public testing::TestWithParam<int> {};

TEST_P(ThreadPoolTest, RunsEveryTaskOnce) {
  ThreadPool pool(GetParam());
  EXPECT_EQ(pool.num_threads(), GetParam());
  for (int num_tasks : {0, 1, 2, 3, 7, 64, 1000}) {
    std::vector<std::atomic<int>> runs(static_cast<size_t>(num_tasks) + 1);
    std::atomic<bool> worker_in_range = true;
    pool.ParallelFor(num_tasks, [&](int64_t task, int worker) {
      runs[static_cast<size_t>(task)].fetch_add(1);
      if (worker < 0 || worker >= GetParam()) worker_in_range = false;
    });
    for (int i = 0; i < num_tasks; ++i) EXPECT_EQ(runs[static_cast<size_t>(i)], 1) << i;
    EXPECT_EQ(runs.back(), 0);
    EXPECT_TRUE(worker_in_range);
  }
}

// Each call's lambda and results are plain locals, as in the operators: a helper that came too late
// or stayed too long would touch a dead frame, which thread and address sanitizer see.
TEST_P(ThreadPoolTest, ManyShortCallsSeeOnlyTheirOwnData) {
  ThreadPool pool(GetParam());
  for (int call = 0; call < 5000; ++call) {
    int64_t results[8] = {};
    const int64_t num_tasks = 1 + call % 8;
    pool.ParallelFor(num_tasks, [&, call](int64_t task, int) { results[task] = call + task; });
    for (int64_t i = 0; i < 8; ++i) ASSERT_EQ(results[i], i < num_tasks ? call + i : 0);
  }
}

TEST_P(ThreadPoolTest, NoTwoTasksShareAWorkerAtATime) {
  ThreadPool pool(GetParam());
  std::vector<int64_t> sums(static_cast<size_t>(GetParam()));  // plain: a race would be seen
  for (int call = 0; call < 200; ++call) {
    pool.ParallelFor(100,
                     [&](int64_t task, int worker) { sums[static_cast<size_t>(worker)] += task; });
  }
  int64_t total = 0;
  for (int64_t sum : sums) total += sum;
  EXPECT_EQ(total, 200 * 4950);
}

TEST_P(ThreadPoolTest, WakesHelpersThatSleep) {
  ThreadPool pool(GetParam());
  for (int call = 0; call < 20; ++call) {
    std::this_thread::sleep_for(std::chrono::microseconds(500));  // past the spinning
    std::atomic<int> num_runs = 0;
    pool.ParallelFor(50, [&](int64_t, int) { num_runs.fetch_add(1); });
    EXPECT_EQ(num_runs, 50);
  }
}

// A task that blocks until another has run needs a second thread to take that one.
TEST_P(ThreadPoolTest, HelpersTakePart) {
  if (GetParam() == 1) GTEST_SKIP() << "needs two threads";
  ThreadPool pool(GetParam());
  for (int call = 0; call < 50; ++call) {
    std::atomic<int> num_arrived = 0;
    pool.ParallelFor(2, [&](int64_t, int) {
      num_arrived.fetch_add(1);
      while (num_arrived.load() < 2) std::this_thread::yield();
    });
  }
}

TEST_P(ThreadPoolTest, OneTaskRunsOnTheCaller) {
  ThreadPool pool(GetParam());
  std::thread::id id;
  pool.ParallelFor(1, [&](int64_t, int) { id = std::this_thread::get_id(); });
  EXPECT_EQ(id, std::this_thread::get_id());
}

TEST_P(ThreadPoolTest, MayBeDestroyedAtOnce) {
  for (int i = 0; i < 50; ++i) ThreadPool pool(GetParam());
}

INSTANTIATE_TEST_SUITE_P(Threads, ThreadPoolTest, testing::Values(1, 2, 3, 8));

}  // namespace
}  // namespace nsa::kernels
