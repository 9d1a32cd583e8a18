#include "kernels/thread_pool.h"

#include <atomic>
#include <chrono>
#include <string>
#include <thread>
#include <vector>

#include "kernels/check.h"
#include "kernels/pause.h"
#include "kernels/thread_name.h"

namespace nsa::kernels {
namespace {

// A decode step makes some 300 calls a few microseconds apart, and waking a sleeper costs more than
// that; longer spinning would take a core from the rest of the server.
constexpr std::chrono::microseconds kSpinTime{40};

// Returns when `state` no longer holds `old`: spins first, then sleeps.
void WaitForChange(const std::atomic<uint32_t>& state, uint32_t old) {
  const auto deadline = std::chrono::steady_clock::now() + kSpinTime;
  do {
    for (int i = 0; i < 32; ++i) {
      if (state.load(std::memory_order_acquire) != old) return;
      Pause();
    }
  } while (std::chrono::steady_clock::now() < deadline);
  state.wait(old, std::memory_order_acquire);
}

}  // namespace

// One word says all: the number of helpers inside the job, whether the job may be entered, and the
// job's number. A helper enters by adding one to an open word; the caller closes the word when the
// tasks are all handed out and waits only for helpers that are inside. So a helper that slept
// through a job is never waited for, and none can touch a job that has returned.
struct ThreadPool::State {
  static constexpr uint32_t kInside = 0xffff;
  static constexpr uint32_t kOpen = 1u << 16;
  static constexpr uint32_t kStop = 1u << 17;
  static constexpr uint32_t kJob = 1u << 18;  // unit of the job's number, which may wrap

  void RunTasks(int worker) {
    for (;;) {
      const int64_t task = next_task.fetch_add(1, std::memory_order_relaxed);
      if (task >= num_tasks) return;
      function(context, task, worker);
    }
  }

  void HelperLoop(int worker) {
    NameThread(("nsa-cpu-" + std::to_string(worker)).c_str());
    uint32_t last_job = 0;
    uint32_t seen = word.load(std::memory_order_acquire);
    for (;;) {
      if (seen & kStop) return;
      if ((seen & kOpen) == 0 || seen / kJob == last_job) {
        WaitForChange(word, seen);
        seen = word.load(std::memory_order_acquire);
        continue;
      }
      if (!word.compare_exchange_weak(seen, seen + 1, std::memory_order_acq_rel,
                                      std::memory_order_acquire)) {
        continue;
      }
      last_job = seen / kJob;
      RunTasks(worker);
      seen = word.fetch_sub(1, std::memory_order_acq_rel) - 1;
      if ((seen & (kOpen | kInside)) == 0) word.notify_all();
    }
  }

  std::atomic<uint32_t> word{0};
  alignas(64) std::atomic<int64_t> next_task{0};
  // Written by the caller while the word is closed and nobody is inside.
  alignas(64) int64_t num_tasks = 0;
  TaskFunction function = nullptr;
  void* context = nullptr;
  std::vector<std::thread> helpers;
};

ThreadPool::ThreadPool(int num_threads) : state_(std::make_unique<State>()) {
  NSA_CHECK(num_threads >= 1 && num_threads < static_cast<int>(State::kInside));
  // Job numbers start at 1, so that a helper's "last job" of 0 is none.
  state_->word.store(State::kJob);
  for (int worker = 1; worker < num_threads; ++worker) {
    state_->helpers.emplace_back([state = state_.get(), worker] { state->HelperLoop(worker); });
  }
}

ThreadPool::~ThreadPool() {
  state_->word.fetch_or(State::kStop, std::memory_order_acq_rel);
  state_->word.notify_all();
  for (std::thread& helper : state_->helpers) helper.join();
}

int ThreadPool::num_threads() const { return static_cast<int>(state_->helpers.size()) + 1; }

void ThreadPool::Run(int64_t num_tasks, TaskFunction function, void* context) {
  State& state = *state_;
  if (state.helpers.empty() || num_tasks <= 1) {
    for (int64_t task = 0; task < num_tasks; ++task) function(context, task, 0);
    return;
  }
  state.num_tasks = num_tasks;
  state.function = function;
  state.context = context;
  state.next_task.store(0, std::memory_order_relaxed);
  const uint32_t closed = state.word.load(std::memory_order_relaxed);
  NSA_CHECK((closed & (State::kOpen | State::kInside)) == 0);  // one caller at a time
  state.word.store((closed + State::kJob) | State::kOpen, std::memory_order_release);
  state.word.notify_all();
  state.RunTasks(0);
  uint32_t word = state.word.fetch_and(~State::kOpen, std::memory_order_acq_rel) & ~State::kOpen;
  while ((word & State::kInside) != 0) {
    WaitForChange(state.word, word);
    word = state.word.load(std::memory_order_acquire);
  }
}

}  // namespace nsa::kernels
