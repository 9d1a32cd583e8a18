#ifndef NSA_ENGINE_SCHEDULER_H_
#define NSA_ENGINE_SCHEDULER_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "engine/batch.h"
#include "engine/fair_share.h"
#include "engine/faults.h"
#include "engine/metrics.h"
#include "engine/page_mover.h"
#include "engine/page_pool.h"
#include "engine/page_tier.h"
#include "engine/prefix_cache.h"
#include "engine/sequence.h"
#include "engine/step_budget.h"

namespace nsa::engine {

/// Decides what the next step runs, and owns the accepted sequences and their pages. Decode rows
/// come first, so that a long prompt never stops others' tokens; prefill chunks fill what the step
/// budget leaves, in order of priority, of tenants by what they were served, and of arrival. Who
/// waits long rises in priority. Where pages run out the sequence that would run last
/// waits, and its pages move to the tier below, as far as others need them; where no tier takes
/// them it gives them back and is computed again later, which row-invariant operators make
/// invisible in its output. For the same reason drafted tokens may follow a decode row: those that
/// turn out right are what plain decoding gives. Full pages stay known when their sequence ends,
/// and one that begins with the same tokens begins behind them. Engine thread.
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
    FaultInjector* faults = nullptr;  // tests
  };

  /// `tier`: where pages go that are not in memory, into the pool's blocks; null: nowhere.
  Scheduler(PagePool* pool, const Limits& limits, PageTier* tier = nullptr)
      : pool_(pool),
        cache_(pool, PrefixCache::Begin(RootOf(limits.default_blocks, "")).hash),
        mover_(pool, tier),
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

  /// Takes out the sequences of a request and returns their pages.
  std::vector<std::unique_ptr<Sequence>> Remove(std::string_view id);
  /// The same for all for which `ended` says so.
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
  SpillCounts TakeSpillCounts() { return mover_.TakeCounts(); }
  /// Pages that sequences could be given without preemption, and those of them that are cached.
  int32_t num_pages_available() const { return cache_.num_available(); }
  int32_t num_pages_cached() const { return cache_.num_idle(); }
  /// Forgets what is cached; gives the number of pages that became free.
  int32_t FlushCache();
  /// Of the prefix cache: begins to note what changes and gives what is known now; the changes
  /// since; or no more notes.
  std::vector<CacheEvent> BeginCacheEvents();
  std::vector<CacheEvent> TakeCacheEvents() { return cache_.TakeEvents(); }
  void EndCacheEvents() { cache_.RecordEvents(false); }
  bool idle() const { return running_.empty() && waiting_.empty(); }
  /// Pages are moving between memory and the tier below; Schedule takes note of their end.
  bool moving() const { return mover_.busy(); }
  /// Pages in the tier below.
  int32_t num_pages_spilled() const { return pool_->num_used() - pool_->num_active(); }
  /// What must hold between steps: users, frames and blocks of each page, hash chains, moves, and
  /// the states of sequences. Internal names what does not.
  absl::Status Check() const;
  bool Consistent() const { return Check().ok(); }

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
  /// Sees to it that pages become available, now (true: try again) or later.
  bool MakeRoom(const Sequence& sequence, int64_t num_missing);
  bool PreemptLastAfter(const Sequence& sequence);
  /// Notes which moves have ended, and whose pages are back.
  void SettleMoves();
  /// The page's content is gone: who has it is computed again.
  void Lose(int32_t page);
  /// Waiting sequences but `except` give back frames, the last in line first: to the tier, or,
  /// where that takes nothing, together with what they have computed.
  void Evict(int64_t num_frames, const Sequence* except);
  int64_t EvictFrom(Sequence& sequence, int64_t num_frames, const std::vector<bool>& in_use);
  /// Of waiting sequences, but `except`; pages that only they use.
  int64_t NumFramesHeld(const Sequence* except) const;
  std::vector<bool> PagesInUse(const Sequence* except) const;
  void EvictForRunning();
  void PreemptByFault();
  /// Moves idle pages out until `num_frames` are free, now or soon, so that nothing must be
  /// forgotten; true where it is worth to wait for these.
  bool SpillIdle(int64_t num_frames);
  /// A sequence that begins to run needs all its pages in memory. False: it should wait until idle
  /// pages have made place.
  bool BringBack(Sequence& sequence);
  int64_t NumReady(const std::vector<int32_t>& pages) const;
  absl::Status CheckSequences() const;
  absl::Status CheckPages() const;
  void AddEntry(Batch& batch, int32_t index, int64_t num_tokens);
  /// Adds drafted tokens to a decode row, as far as free pages and `limit` go; gives their number.
  int64_t AddDraft(Batch& batch, BatchEntry& entry, int64_t limit);
  void ReleasePages(Sequence& sequence);
  /// Releases them to be computed again.
  void GiveUp(Sequence& sequence);
  PrefixChain ChainOf(const Sequence& sequence) const;
  /// Of chains whose pages are shared by who selects so many blocks and has this salt.
  static std::string RootOf(int32_t blocks, std::string_view salt);
  /// Of its tokens, those that need not be computed where the cache has them.
  static std::span<const int32_t> Findable(const Sequence& sequence);
  /// Whether its pages are nobody else's but its own choices'.
  bool IsPrivate(const Sequence& sequence) const;
  /// Its n.
  int32_t BlocksOf(const Sequence& sequence) const;
  /// Begins the sequence behind the pages that are known.
  void BeginAt(Sequence& sequence, PrefixMatch match);
  void CountPrefix(Sequence& sequence);
  /// Makes its pages known that have become full.
  void Publish(Sequence& sequence);

  PagePool* pool_;
  PrefixCache cache_;
  PageMover mover_;
  Limits limits_;
  StepBudget step_budget_;
  FairShare shares_;
  std::vector<std::unique_ptr<Sequence>> waiting_;    // sorted by each Schedule
  std::vector<std::unique_ptr<Sequence>> running_;    // by priority, then arrival
  std::vector<std::unique_ptr<Sequence>> preempted_;  // during Schedule
  absl::Time now_ = absl::InfinitePast();             // of the latest Schedule
  bool erases_later_ = false;                         // flushed while pages moved
  Preemptions preemptions_;
  DraftCounts drafts_;
  PrefixCounts prefixes_;
};

}  // namespace nsa::engine

#endif  // NSA_ENGINE_SCHEDULER_H_
