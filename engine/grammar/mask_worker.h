#ifndef NSA_ENGINE_GRAMMAR_MASK_WORKER_H_
#define NSA_ENGINE_GRAMMAR_MASK_WORKER_H_

#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "engine/grammar/grammar.h"

namespace nsa::engine {

/// Fills grammars' masks on a thread of its own while the forward pass runs. The thread starts with
/// the first mask. Add and Wait are one thread's, the engine's.
class MaskWorker {
 public:
  MaskWorker() = default;
  ~MaskWorker();
  MaskWorker(const MaskWorker&) = delete;
  MaskWorker& operator=(const MaskWorker&) = delete;

  /// Begins to fill `matcher`, which stays as it is until Wait has returned for it.
  void Add(GrammarMatcher* matcher);

  /// Until it is filled. Each that was added is waited for once.
  absl::Status Wait(GrammarMatcher* matcher);

 private:
  void Loop();

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<GrammarMatcher*> queue_;
  absl::flat_hash_map<GrammarMatcher*, absl::Status> filled_;
  bool stop_ = false;
  std::thread thread_;
};

}  // namespace nsa::engine

#endif  // NSA_ENGINE_GRAMMAR_MASK_WORKER_H_
