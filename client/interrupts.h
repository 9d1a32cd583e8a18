#ifndef NSA_CLIENT_INTERRUPTS_H_
#define NSA_CLIENT_INTERRUPTS_H_

#include <atomic>
#include <functional>
#include <thread>

namespace nsa::client {

/// Keeps Ctrl-C and SIGTERM for an InterruptGuard. Before the first thread starts, so before a
/// channel: a signal ends the process in any thread that does not block it.
void BlockInterrupts();

/// While it lives, each Ctrl-C or SIGTERM becomes a call of `on_interrupt`, on a thread of its own:
/// the signals, blocked, are waited for, since nothing of gRPC may be called from a handler.
class InterruptGuard {
 public:
  explicit InterruptGuard(std::function<void()> on_interrupt);
  ~InterruptGuard();
  InterruptGuard(const InterruptGuard&) = delete;
  InterruptGuard& operator=(const InterruptGuard&) = delete;

 private:
  std::atomic<bool> ended_{false};
  std::thread watcher_;
};

}  // namespace nsa::client

#endif  // NSA_CLIENT_INTERRUPTS_H_
