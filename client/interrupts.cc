#include "client/interrupts.h"

#include <signal.h>

#include <utility>

namespace nsa::client {
namespace {

sigset_t InterruptSignals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  return signals;
}

}  // namespace

void BlockInterrupts() {
  const sigset_t signals = InterruptSignals();
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
}

InterruptGuard::InterruptGuard(std::function<void()> on_interrupt) {
  watcher_ = std::thread([this, on_interrupt = std::move(on_interrupt)] {
    const sigset_t signals = InterruptSignals();
    while (!ended_) {
      const timespec tenth{0, 100'000'000};
      if (sigtimedwait(&signals, nullptr, &tenth) > 0) on_interrupt();
    }
  });
}

InterruptGuard::~InterruptGuard() {
  ended_ = true;
  watcher_.join();
}

}  // namespace nsa::client
