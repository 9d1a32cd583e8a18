#ifndef NSA_SERVER_WORK_POOL_H_
#define NSA_SERVER_WORK_POOL_H_

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace nsa::server {

/// A few threads for work that would hold up gRPC's own: tokenizing long prompts. Bounded.
class WorkPool {
 public:
  /// `thread_name`: as `top -H` shows it, at most 15 characters.
  WorkPool(const char* thread_name, int num_threads, size_t max_queued);
  ~WorkPool();  // finishes what is queued
  WorkPool(const WorkPool&) = delete;
  WorkPool& operator=(const WorkPool&) = delete;

  /// False, and `work` is not taken, where the queue is full.
  bool Add(std::function<void()> work);
  size_t max_queued() const { return max_queued_; }

 private:
  void Loop();

  const size_t max_queued_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::function<void()>> queue_;
  bool stop_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace nsa::server

#endif  // NSA_SERVER_WORK_POOL_H_
