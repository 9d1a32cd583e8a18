#include "kernels/cpu/staged_call.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <thread>

#include "kernels/check.h"
#include "kernels/pause.h"

namespace nsa::kernels::cpu {
namespace {

using Clock = std::chrono::steady_clock;

/// How far a stage is. A cache line of its own: every task of the stage writes it.
struct alignas(64) Progress {
  std::atomic<int64_t> num_left{0};
  std::atomic<int64_t> nanoseconds{0};
};

/// When a worker ended its last task.
struct alignas(64) WorkerClock {
  Clock::time_point last;
};

void WaitForEnd(const std::atomic<int64_t>& num_left) {
  constexpr int kSpins = 4096;
  for (int i = 1; num_left.load(std::memory_order_acquire) > 0; ++i) {
    Pause();
    // The worker that has the task may have lost its core.
    if (i % kSpins == 0) std::this_thread::yield();
  }
}

}  // namespace

int TaskList::AddCall(StagedCall& call) {
  const int first = num_stages();
  for (int stage = 0; stage < call.num_stages(); ++stage) {
    stages_.push_back({.call = &call, .stage = stage, .num_tasks = call.NumTasks(stage)});
    for (int earlier = 0; earlier < stage; ++earlier) {
      if (call.Follows(stage, earlier)) Follow(first + stage, first + earlier);
    }
  }
  return first;
}

void TaskList::FollowAll(int stage, int first_earlier, int end_earlier) {
  Stage& follower = stages_[static_cast<size_t>(stage)];
  NSA_CHECK(end_earlier <= num_stages() && follower.num_added == 0);
  for (int earlier = first_earlier; earlier < end_earlier; ++earlier) {
    NSA_CHECK(follower.num_followed < kMaxFollowed);
    follower.followed[follower.num_followed++] = earlier;
  }
}

void TaskList::Add(int stage, int64_t count) {
  Stage& added = stages_[static_cast<size_t>(stage)];
  const int64_t first = added.num_added;
  const int64_t end = first + std::min(count, added.num_tasks - first);
  // Tasks are handed out in order, so what a task waits for is done or with another worker.
  for (int i = 0; i < added.num_followed; ++i) {
    const Stage& followed = stages_[static_cast<size_t>(added.followed[i])];
    NSA_CHECK(first == end || followed.num_added == followed.num_tasks);
  }
  if (first == end) return;
  added.num_added = end;
  runs_.push_back({stage, first, end});
  num_tasks_ += end - first;
}

void TaskList::Run(ThreadPool& pool, bool measures) {
  List<Progress> progress(stages_.size(), scope_.memory());
  for (size_t i = 0; i < stages_.size(); ++i) {
    NSA_CHECK(stages_[i].num_added == stages_[i].num_tasks);
    progress[i].num_left.store(stages_[i].num_tasks, std::memory_order_relaxed);
  }
  List<WorkerClock> clocks(scope_.memory());
  if (measures) clocks.assign(static_cast<size_t>(pool.num_threads()), {Clock::now()});
  pool.ParallelFor(num_tasks_, [&](int64_t task, int worker) {
    size_t run = 0;
    while (task >= runs_[run].end - runs_[run].first) {
      task -= runs_[run].end - runs_[run].first;
      ++run;
    }
    const auto index = static_cast<size_t>(runs_[run].stage);
    const Stage& stage = stages_[index];
    for (int i = 0; i < stage.num_followed; ++i) {
      WaitForEnd(progress[static_cast<size_t>(stage.followed[i])].num_left);
    }
    stage.call->RunTask(stage.stage, runs_[run].first + task, worker);
    if (measures) {
      const Clock::time_point now = Clock::now();
      const std::chrono::nanoseconds taken = now - clocks[static_cast<size_t>(worker)].last;
      clocks[static_cast<size_t>(worker)].last = now;
      progress[index].nanoseconds.fetch_add(taken.count(), std::memory_order_relaxed);
    }
    progress[index].num_left.fetch_sub(1, std::memory_order_release);
  });
  for (size_t i = 0; i < stages_.size(); ++i) {
    stages_[i].seconds = 1e-9 * static_cast<double>(progress[i].nanoseconds.load());
  }
}

void RunStages(Context& context, const ListScope& scope, StagedCall& call) {
  TaskList tasks(scope);
  const int first = tasks.AddCall(call);
  tasks.AddAll(first, first + call.num_stages());
  tasks.Run(context.pool);
}

}  // namespace nsa::kernels::cpu
