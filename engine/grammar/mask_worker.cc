#include "engine/grammar/mask_worker.h"

#include <utility>

#include "engine/thread_name.h"

namespace nsa::engine {

MaskWorker::~MaskWorker() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  if (thread_.joinable()) thread_.join();
}

void MaskWorker::Add(GrammarMatcher* matcher) {
  if (!thread_.joinable()) thread_ = std::thread([this] { Loop(); });
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    queue_.push_back(matcher);
  }
  changed_.notify_all();
}

absl::Status MaskWorker::Wait(GrammarMatcher* matcher) {
  std::unique_lock<std::mutex> lock(mutex_);
  changed_.wait(lock, [&] { return filled_.contains(matcher); });
  return std::move(filled_.extract(matcher).mapped());
}

void MaskWorker::Loop() {
  NameThread("nsa-mask");
  std::unique_lock<std::mutex> lock(mutex_);
  for (;;) {
    changed_.wait(lock, [this] { return stop_ || !queue_.empty(); });
    if (stop_) return;
    GrammarMatcher* const matcher = queue_.front();
    queue_.pop_front();
    lock.unlock();
    absl::Status status = matcher->Fill();
    lock.lock();
    filled_[matcher] = std::move(status);
    changed_.notify_all();
  }
}

}  // namespace nsa::engine
