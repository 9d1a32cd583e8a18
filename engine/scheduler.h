#ifndef NSA_ENGINE_SCHEDULER_H_
#define NSA_ENGINE_SCHEDULER_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "engine/batch.h"
#include "engine/fair_share.h"
#include "engine/metrics.h"
#include "engine/page_pool.h"
#include "engine/prefix_cache.h"
#include "engine/sequence.h"
#include "engine/step_budget.h"

namespace nsa::engine {

/// Decides what the next step runs, and owns the accepted sequences and their pages. Decode rows
/// come first, so that a long prompt never stops others' tokens; prefill chunks fill what the step
/// budget leaves, in order of priority, of tenants by what they were served, and of arrival. Who
/// waits long rises in priority. Where pages run out the sequence that would run last
/// gives its pages back and is computed again later: row-invariant operators make that invisible in
/// its output. For the same reason drafted tokens may follow a decode row: those that turn out
/// right are what plain decoding gives. Full pages stay known when their sequence ends, and one
/// that begins with the same tokens begins behind them. Engine thread.
class Scheduler {
 public:
  struct Limits {
    int64_t max_step_tokens = 512;
    int32_t max_running = 64;
    bool prefix_cache = true;
    int32_t default_blocks = 0;  // n of sequences that ask for none; 0: full attention
    /// What a step beside running streams may take; chunks of prompts are cut to it.
    absl::Duration target_inter_token = absl::InfiniteDuration();
    /// A request gains one priority class each time it has been there so long.
    absl::Duration priority_ageing = absl::InfiniteDuration();
  };

  Scheduler(PagePool* pool, const Limits& limits)
      : pool_(pool),
        cache_(pool),
        limits_(limits),
        step_budget_(limits.max_step_tokens, limits.target_inter_token) {}

  void Add(std::unique_ptr<Sequence> sequence);

  /// The next step's batch; entry.sequence_index indexes running(). Empty: nothing can run now.
  Batch Schedule(absl::Time now);

  /// After a step: the batch's tokens are in the cache.
  void Complete(const Batch& batch);

  /// Tells how long a step took.
  void ObserveStep(int64_t num_decode_rows, int64_t num_prompt_tokens, absl::Duration duration) {
    step_budget_.Observe(num_decode_rows, num_prompt_tokens, duration);
  }

  /// Whether its prompt cannot be read before its deadline, even at a better rate than measured.
  bool IsHopeless(const Sequence& sequence, absl::Time now) const;

  /// Takes a sequence out and returns its pages.
  std::unique_ptr<Sequence> Remove(std::string_view id);
  /// Takes out all for which `ended` says so.
  std::vector<std::unique_ptr<Sequence>> RemoveIf(
      const std::function<bool(const Sequence&)>& ended);

  Sequence& running(int32_t index) { return *running_[static_cast<size_t>(index)]; }
  int32_t num_running() const { return static_cast<int32_t>(running_.size()); }
  int32_t num_waiting() const { return static_cast<int32_t>(waiting_.size()); }
  const std::vector<std::unique_ptr<Sequence>>& waiting() const { return waiting_; }
  /// What has happened since the last call.
  Preemptions TakePreemptions() { return std::exchange(preemptions_, Preemptions{}); }
  DraftCounts TakeDraftCounts() { return std::exchange(drafts_, DraftCounts{}); }
  PrefixCounts TakePrefixCounts() { return std::exchange(prefixes_, PrefixCounts{}); }
  /// Pages that sequences could be given without preemption, and those of them that are cached.
  int32_t num_pages_available() const { return cache_.num_available(); }
  int32_t num_pages_cached() const { return cache_.num_idle(); }
  /// Forgets what is cached; gives the number of pages that became free.
  int32_t FlushCache() { return cache_.Clear(); }
  bool idle() const { return running_.empty() && waiting_.empty(); }
  /// Whether each page has the users that it counts, and is shared only where the cache knows it.
  bool Consistent() const;

 private:
  /// Of sequences, in which order they get something.
  bool RunsBefore(const Sequence& a, const Sequence& b, absl::Time now) const;
  bool IsServedBefore(const Sequence& a, const Sequence& b, absl::Time now) const;
  int64_t PriorityOf(const Sequence& sequence, absl::Time now) const;
  void Sort(absl::Time now);
  void Admit(absl::Time now);
  void AddDecodeRows(Batch& batch);
  void AddPromptChunks(Batch& batch, absl::Time now);
  /// Makes pages for `num_tokens` tokens in all, preempting later sequences if need be.
  bool Reserve(Sequence& sequence, int64_t num_tokens);
  bool PreemptLastAfter(const Sequence& sequence);
  void AddEntry(Batch& batch, int32_t index, int64_t num_tokens);
  /// Adds drafted tokens to a decode row, as far as free pages and `limit` go; gives their number.
  int64_t AddDraft(Batch& batch, BatchEntry& entry, int64_t limit);
  void ReleasePages(Sequence& sequence);
  PrefixChain ChainOf(const Sequence& sequence) const;
  /// Of its tokens, those that need not be computed where the cache has them.
  static std::span<const int32_t> Findable(const Sequence& sequence);
  /// Whether its pages are nobody else's but its own choices'.
  bool IsPrivate(const Sequence& sequence) const;
  /// Its n.
  int32_t BlocksOf(const Sequence& sequence) const;
  /// Begins the sequence behind the pages that are known.
  void BeginAt(Sequence& sequence, PrefixMatch match);
  /// Makes its pages known that have become full.
  void Publish(Sequence& sequence);

  PagePool* pool_;
  PrefixCache cache_;
  Limits limits_;
  StepBudget step_budget_;
  FairShare shares_;
  std::vector<std::unique_ptr<Sequence>> waiting_;    // sorted by each Schedule
  std::vector<std::unique_ptr<Sequence>> running_;    // by priority, then arrival
  std::vector<std::unique_ptr<Sequence>> preempted_;  // during Schedule
  Preemptions preemptions_;
  DraftCounts drafts_;
  PrefixCounts prefixes_;
};

}  // namespace nsa::engine

#endif  // NSA_ENGINE_SCHEDULER_H_
