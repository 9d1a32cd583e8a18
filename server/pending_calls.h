#ifndef NSA_SERVER_PENDING_CALLS_H_
#define NSA_SERVER_PENDING_CALLS_H_

#include <atomic>
#include <memory>
#include <mutex>
#include <string>

#include "absl/container/flat_hash_map.h"

namespace nsa::server {

/// How far a Generate call is; shared by the threads that may end it. It outlives the call, which
/// the engine may end while Submit returns.
struct CallProgress {
  std::atomic<bool> cancelled{false};  // by the client, or by Abort
  std::atomic<bool> aborted{false};    // by Abort: the client still listens
  std::atomic<bool> submitted{false};  // the engine has accepted it
};

/// Calls that the engine does not know yet: they wait to be tokenized, or are just being. So that
/// Abort reaches them too, and no two have the same id. Thread-safe.
class PendingCalls {
 public:
  /// False where `id` is there already.
  bool Add(const std::string& id, const std::shared_ptr<CallProgress>& progress) {
    const std::lock_guard<std::mutex> lock(mutex_);
    return calls_.emplace(id, progress).second;
  }

  void Remove(const std::string& id) {
    const std::lock_guard<std::mutex> lock(mutex_);
    calls_.erase(id);
  }

  /// Removes the call and runs `submit`, with nothing in between: an Abort meets it here or in the
  /// engine, and once the engine has it the id is the engine's to give again.
  template <typename Submit>
  auto HandOver(const std::string& id, Submit submit) {
    const std::lock_guard<std::mutex> lock(mutex_);
    calls_.erase(id);
    return submit();
  }

  /// Marks the call, if it is there, so that it ends before or right after it reaches the engine.
  void Abort(const std::string& id) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto found = calls_.find(id);
    if (found == calls_.end()) return;
    found->second->aborted = true;
    found->second->cancelled = true;
  }

 private:
  std::mutex mutex_;
  absl::flat_hash_map<std::string, std::shared_ptr<CallProgress>> calls_;
};

}  // namespace nsa::server

#endif  // NSA_SERVER_PENDING_CALLS_H_
