#include "client/load/progress.h"

#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <utility>

namespace nsa::client {

ProgressLine::ProgressLine(std::function<std::string(double elapsed_s)> text) {
  thread_ = std::thread([this, text = std::move(text)] {
    const bool terminal = isatty(STDERR_FILENO) != 0;
    const auto begin = std::chrono::steady_clock::now();
    std::unique_lock<std::mutex> lock(mutex_);
    while (!changed_.wait_for(lock, std::chrono::milliseconds(250), [this] { return ended_; })) {
      const double elapsed_s =
          std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
      const std::string now = text(elapsed_s);
      if (terminal) std::fprintf(stderr, "\r\033[K%.1f s: %s", elapsed_s, now.c_str());
    }
    if (terminal) std::fprintf(stderr, "\r\033[K");
  });
}

ProgressLine::~ProgressLine() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    ended_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

}  // namespace nsa::client
