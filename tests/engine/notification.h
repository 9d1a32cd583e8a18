#ifndef NSA_TESTS_ENGINE_NOTIFICATION_H_
#define NSA_TESTS_ENGINE_NOTIFICATION_H_

#include <chrono>
#include <condition_variable>
#include <mutex>

#include "absl/time/time.h"

namespace nsa::engine {

/// Told once, waited for by any number of threads. As absl::Notification, whose order between
/// threads the thread sanitizer cannot see in a library that is not built for it. Where sanitizers
/// make everything slow, time outs are longer.
class Notification {
 public:
  Notification() = default;
  Notification(const Notification&) = delete;
  Notification& operator=(const Notification&) = delete;

  void Notify() {
    const std::lock_guard<std::mutex> lock(mutex_);
    is_told_ = true;
    told_.notify_all();
  }
  bool HasBeenNotified() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return is_told_;
  }
  void WaitForNotification() const {
    std::unique_lock<std::mutex> lock(mutex_);
    told_.wait(lock, [this] { return is_told_; });
  }
  bool WaitForNotificationWithTimeout(absl::Duration patience) const {
    std::unique_lock<std::mutex> lock(mutex_);
    return told_.wait_for(lock, absl::ToChronoMilliseconds(kSlowness * patience),
                          [this] { return is_told_; });
  }

 private:
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  static constexpr int kSlowness = 30;
#else
  static constexpr int kSlowness = 1;
#endif
  mutable std::mutex mutex_;
  mutable std::condition_variable told_;
  bool is_told_ = false;
};

}  // namespace nsa::engine

#endif  // NSA_TESTS_ENGINE_NOTIFICATION_H_
