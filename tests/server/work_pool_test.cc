#include "server/work_pool.h"

#include <gtest/gtest.h>

#include <atomic>
#include <future>
#include <mutex>
#include <set>
#include <thread>
#include <vector>

namespace nsa::server {
namespace {

TEST(WorkPoolTest, RefusesWhatDoesNotFitAndFinishesWhatItTook) {
  std::atomic<int> num_done{0};
  std::promise<void> gate;
  const std::shared_future<void> open = gate.get_future().share();
  std::promise<void> began;
  {
    WorkPool pool("test", 1, 3);
    ASSERT_TRUE(pool.Add([&, open] {
      began.set_value();
      open.wait();
      ++num_done;
    }));
    began.get_future().wait();  // it runs, so the queue is empty
    for (int i = 0; i < 3; ++i) ASSERT_TRUE(pool.Add([&] { ++num_done; }));
    EXPECT_FALSE(pool.Add([&] { num_done = 1000; }));
    EXPECT_EQ(num_done, 0);
    gate.set_value();
  }
  EXPECT_EQ(num_done, 4) << "the destructor finishes what is queued";
}

TEST(WorkPoolTest, WorkRunsOnEachThread) {
  std::mutex mutex;
  std::set<std::thread::id> threads;
  std::atomic<int> num_meeting{0};
  {
    WorkPool pool("test", 3, 10);
    for (int i = 0; i < 3; ++i) {
      ASSERT_TRUE(pool.Add([&] {
        ++num_meeting;
        while (num_meeting < 3) std::this_thread::yield();  // needs all three at a time
        const std::lock_guard<std::mutex> lock(mutex);
        threads.insert(std::this_thread::get_id());
      }));
    }
  }
  EXPECT_EQ(threads.size(), 3U);
}

TEST(WorkPoolTest, ManyThreadsAdd) {
  std::atomic<int> num_done{0};
  std::atomic<int> num_taken{0};
  {
    WorkPool pool("test", 2, 8);
    std::vector<std::thread> adders;
    for (int i = 0; i < 4; ++i) {
      adders.emplace_back([&] {
        for (int k = 0; k < 2000; ++k) num_taken += pool.Add([&] { ++num_done; }) ? 1 : 0;
      });
    }
    for (std::thread& adder : adders) adder.join();
  }
  EXPECT_EQ(num_done, num_taken);
  EXPECT_GT(num_taken, 0);
}

}  // namespace
}  // namespace nsa::server
