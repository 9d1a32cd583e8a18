#include "kernels/thread_pool.h"

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

#include "kernels/check.h"

namespace nsa::kernels {
namespace {

// A decode step makes some three hundred calls; between two of them workers look for work this many
// times before they sleep (about 50 µs), for a wake-up costs more than most calls.
constexpr int kSpins = 2000;

inline void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

}  // namespace

struct ThreadPool::State {
  // One call. Written under `mutex` before `generation` rises.
  TaskFunction function = nullptr;
  void* context = nullptr;
  int64_t num_tasks = 0;

  std::atomic<uint64_t> generation{0};  // rises with each call
  std::atomic<int64_t> next_task{0};
  std::atomic<int> num_busy{0};  // workers that have not finished the present call
  std::atomic<bool> stop{false};

  std::mutex mutex;
  std::condition_variable wake;
  std::vector<std::thread> threads;

  void RunTasks(int worker) {
    for (;;) {
      const int64_t task = next_task.fetch_add(1, std::memory_order_relaxed);
      if (task >= num_tasks) return;
      function(context, task, worker);
    }
  }

  bool Changed(uint64_t seen) const {
    return generation.load(std::memory_order_acquire) != seen ||
           stop.load(std::memory_order_acquire);
  }

  void Work(int worker) {
    uint64_t seen = 0;
    for (;;) {
      for (int spin = 0; spin < kSpins && !Changed(seen); ++spin) Pause();
      if (!Changed(seen)) {
        std::unique_lock<std::mutex> lock(mutex);
        wake.wait(lock, [&] { return Changed(seen); });
      }
      if (stop.load(std::memory_order_acquire)) return;
      seen = generation.load(std::memory_order_acquire);
      RunTasks(worker);
      num_busy.fetch_sub(1, std::memory_order_release);
    }
  }
};

ThreadPool::ThreadPool(int num_threads) : state_(std::make_unique<State>()) {
  NSA_CHECK(num_threads >= 1);
  for (int worker = 1; worker < num_threads; ++worker) {
    state_->threads.emplace_back([state = state_.get(), worker] { state->Work(worker); });
  }
}

ThreadPool::~ThreadPool() {
  {
    const std::lock_guard<std::mutex> lock(state_->mutex);
    state_->stop.store(true, std::memory_order_release);
  }
  state_->wake.notify_all();
  for (std::thread& thread : state_->threads) thread.join();
}

int ThreadPool::num_threads() const { return static_cast<int>(state_->threads.size()) + 1; }

void ThreadPool::Run(int64_t num_tasks, TaskFunction function, void* context) {
  State& state = *state_;
  if (state.threads.empty() || num_tasks <= 1) {
    for (int64_t task = 0; task < num_tasks; ++task) function(context, task, 0);
    return;
  }
  {
    const std::lock_guard<std::mutex> lock(state.mutex);
    state.function = function;
    state.context = context;
    state.num_tasks = num_tasks;
    state.next_task.store(0, std::memory_order_relaxed);
    state.num_busy.store(static_cast<int>(state.threads.size()), std::memory_order_relaxed);
    state.generation.fetch_add(1, std::memory_order_release);
  }
  state.wake.notify_all();
  state.RunTasks(0);
  // Every worker takes part in every call, so that none can read the next call's fields too early.
  for (int spin = 0; state.num_busy.load(std::memory_order_acquire) != 0; ++spin) {
    if (spin < 100 * kSpins) {
      Pause();
    } else {
      std::this_thread::yield();
    }
  }
}

}  // namespace nsa::kernels
