#ifndef NSA_KERNELS_THREAD_POOL_H_
#define NSA_KERNELS_THREAD_POOL_H_

#include <cstdint>
#include <memory>
#include <type_traits>

namespace nsa::kernels {

/// A fixed set of workers for one caller at a time. The caller works too, as worker 0.
/// Which worker runs which task is not fixed, so a task's result must not depend on it.
class ThreadPool {
 public:
  /// `num_threads` ≥ 1 counts the calling thread.
  explicit ThreadPool(int num_threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int num_threads() const;

  /// Calls `body(task, worker)` once for each task in [0, num_tasks), worker in [0, num_threads),
  /// and returns when all are done. Tasks are handed out in rising order. Not reentrant.
  template <typename Body>
  void ParallelFor(int64_t num_tasks, Body&& body) {
    using Plain = std::remove_reference_t<Body>;
    Run(
        num_tasks,
        [](void* context, int64_t task, int worker) {
          (*static_cast<Plain*>(context))(task, worker);
        },
        const_cast<void*>(static_cast<const void*>(&body)));
  }

 private:
  using TaskFunction = void (*)(void* context, int64_t task, int worker);
  void Run(int64_t num_tasks, TaskFunction function, void* context);

  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace nsa::kernels

#endif  // NSA_KERNELS_THREAD_POOL_H_
