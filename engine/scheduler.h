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

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/time/time.h"
#include "engine/batch.h"
#include "engine/fair_share.h"
#include "engine/faults.h"
#include "engine/first_token_forecast.h"
#include "engine/first_token_goal.h"
#include "engine/metrics.h"
#include "engine/page_mover.h"
#include "engine/page_pool.h"
#include "engine/page_tier.h"
#include "engine/prefix_cache.h"
#include "engine/residency.h"
#include "engine/sequence.h"
#include "engine/step_budget.h"
#include "engine/step_cost.h"

namespace nsa::engine {

/// Decides what the next step runs, and owns the accepted sequences and their pages. Decode rows
/// come first, so that a long prompt never stops others' tokens; prefill chunks fill what the step
/// budget leaves, in order of priority, of tenants by what they were served, and of arrival. Who
/// waits long rises in priority. Where pages run out the sequence that would run last
/// waits, and its pages move to the tier below, as far as others need them; where no tier takes
/// them it gives them back and is computed again later, which row-invariant operators make
/// invisible in its output. For the same reason drafted tokens may follow a decode row: those that
/// turn out right are what plain decoding gives. Full pages stay known when their sequence ends,
/// and one that begins with the same tokens begins behind them. Where sequences select what they
/// read, they also run with pages in the tier below: rows that miss a slot (a page's K and V in one
/// layer) leave the step, and go on with that layer when it is there. Engine thread.
class Scheduler final : public PageGate {
 public:
  struct Limits {
    int64_t max_step_tokens = 512;
    int32_t max_running = 64;
    bool prefix_cache = true;
    int32_t default_blocks = 0;  // n of sequences that ask for none; 0: full attention
    /// What a step beside running streams may take; chunks of prompts are cut to it.
    absl::Duration target_inter_token = absl::InfiniteDuration();
    /// When prompts should have their first token (FirstTokenGoal); zero: no goal.
    absl::Duration target_first_token = absl::ZeroDuration();
    /// A request gains one priority class each time it has been there so long.
    absl::Duration priority_ageing = absl::InfiniteDuration();
    FaultInjector* faults = nullptr;  // tests
    /// What lets sequences run with pages in the tier below. It needs max_running +
    /// max_step_tokens kept rows of the runner's.
    Residency residency = {};
    /// Whether the lists of every step are read, so that it is known of all pages when they were
    /// selected; else of steps that may miss a page alone, where to read them is to wait.
    bool gates_all_steps = true;
    std::function<void()> on_vacated = {};  // slots have lost their memory during a step
  };

  /// `tier`: where pages go that are not in memory, into the pool's blocks; null: nowhere.
  Scheduler(PagePool* pool, const Limits& limits, PageTier* tier = nullptr)
      : pool_(pool),
        cache_(pool, PrefixCache::Begin(RootOf(limits.default_blocks, "")).hash),
        mover_(pool, tier),
        limits_(WithTier(limits, tier != nullptr)),
        step_budget_(limits.max_step_tokens, limits.target_inter_token),
        goal_(limits.target_first_token) {
    for (int32_t row = limits_.max_running; limits_.residency.enabled() && row-- > 0;) {
      free_kept_rows_.push_back(row);
    }
  }

  void Add(std::unique_ptr<Sequence> sequence);

  /// The next step's batch; entry.sequence_index indexes running(). Empty: nothing can run now.
  Batch Schedule(absl::Time now);

  /// During a step, from the runner.
  int32_t Pass(const BatchEntry& entry, int layer, std::span<const int32_t> pages) override;

  /// After a step: takes out the entries that have left it, and tells `on_left` of each. False
  /// where some did, or had left an earlier one: the step is none that others are measured by.
  bool TakeOutLeft(Batch& batch, const std::function<void(const BatchEntry&)>& on_left = {}) const;
  /// After a step, or where others that follow it are behind it: the batch's tokens, or an entry's,
  /// are in the cache.
  void Complete(const Batch& batch);
  void Complete(Sequence& sequence, const BatchEntry& entry);

  /// A step of this batch is under way since `began`, and what it computes counts as computed: what
  /// comes next begins when it ends. Null: none is.
  void NoteUnderWay(const Batch* batch, absl::Time began);

  /// Tells how long a step took.
  void ObserveStep(int64_t num_decode_rows, int64_t num_prompt_tokens, absl::Duration duration) {
    step_budget_.Observe(num_decode_rows, num_prompt_tokens, duration);
    step_cost_.Observe(num_decode_rows, num_prompt_tokens, duration);
    last_observed_ = now_;
  }

  /// Looks ahead for those that wait for their first step: who will not have the first token in
  /// time, by the goal or by a deadline, is over until the next call, as WhyOver then says.
  void Judge(absl::Time now);
  /// What is before it, of those that Judge has seen. Where `sequences` is not null it gets that of
  /// each reader.
  ServiceLine Line(absl::Time now, std::vector<Sequence*>* sequences = nullptr) const;
  const FirstTokenGoal& goal() const { return goal_; }

  /// Why a sequence ends before its time; OK: it goes on. DeadlineExceeded where the deadline has
  /// passed, or its prompt and those before it cannot be read until then even at a better rate than
  /// measured; a refusal (admission.h) where the goal for its first token cannot be met any more;
  /// Unavailable where it needs the tier below, and that does not do its work.
  absl::Status WhyOver(const Sequence& sequence, absl::Time now) const;
  bool IsHopeless(const Sequence& sequence, absl::Time now) const;  // its deadline is too near

  /// Takes out the sequences of a request and returns their pages.
  std::vector<std::unique_ptr<Sequence>> Remove(std::string_view id);
  /// The same for all for which `ended` says so.
  std::vector<std::unique_ptr<Sequence>> RemoveIf(
      const std::function<bool(const Sequence&)>& ended);

  Sequence& running(int32_t index) { return *running_[static_cast<size_t>(index)]; }
  const Sequence& running(int32_t index) const { return *running_[static_cast<size_t>(index)]; }
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
  int32_t num_pages_spilled() const { return pool_->num_used() - pool_->num_framed(); }
  MissCounts TakeMissCounts() { return std::exchange(misses_, MissCounts{}); }
  /// What must hold between steps: users, frames, blocks and slots of each page, hash chains,
  /// moves, pins, and the states of sequences. Internal names what does not.
  absl::Status Check() const;
  bool Consistent() const { return Check().ok(); }

 private:
  /// How much faster than lately measured prompts may be read, for what it is worth to a deadline.
  static constexpr double kOptimism = 1.5;
  /// Where nothing has run for so long, that pace may be out of date.
  static constexpr absl::Duration kStale = absl::Seconds(10);

  /// Residency needs a tier.
  static Limits WithTier(Limits limits, bool has_tier) {
    if (!has_tier) limits.residency = {};
    return limits;
  }
  /// Of sequences, in which order they get something.
  bool RunsBefore(const Sequence& a, const Sequence& b, absl::Time now) const;
  bool IsServedBefore(const Sequence& a, const Sequence& b, absl::Time now) const;
  int64_t PriorityOf(const Sequence& sequence, absl::Time now) const;
  bool IsStranded(const Sequence& sequence, absl::Time now) const;
  void Sort(absl::Time now);

  // scheduler_goals.cc: who will have the first token in time.
  /// When its first token should be there, by which those of a tenant are read in order; without a
  /// goal, when it came.
  absl::Time DueOf(const Sequence& sequence) const;
  /// Sequences that may run: max_running, and as many as gaps between tokens allow.
  int64_t num_places() const;
  /// Whether the next step will read what others have in front of it, and nothing of it.
  bool OthersAreRead(const Sequence& next, absl::Time now) const;
  /// Tokens that it will still generate, as far as its limit and those that ended tell.
  int64_t OutputOf(const Sequence& sequence) const;
  void NoteEnd(const Sequence& sequence);
  /// Notes how much of its prompt is in the cache, or will be; true where that is more than before.
  bool FindKnown(Sequence& sequence) const;
  ServiceLine::Reader ReaderOf(const Sequence& sequence, absl::Time now, ServiceLine& line) const;
  void JudgeByGoal(absl::Time now);
  void JudgeByDeadlines(absl::Time now);

  void Admit(absl::Time now);
  /// Sees to frames for a sequence that is next in line, where others can give so many.
  void MakeRoomFor(const Sequence& next, int64_t num_missing);
  void AddInterruptedChunk(Batch& batch);
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
  /// A sequence that begins to run needs its pages in memory: all, or where it can run without and
  /// fewer than that many frames are there for it, those that it keeps. False: it should wait until
  /// idle pages have made place.
  bool BringBack(Sequence& sequence, int64_t room);
  int64_t NumReady(const std::vector<int32_t>& pages) const;

  // scheduler_slots.cc: sequences that run with pages in the tier below.
  /// Whether it may.
  bool IsPageable(const Sequence& sequence) const;
  /// Frames that it should have to run well, with what it holds.
  int64_t FramesWanted(const Sequence& sequence) const;
  int64_t NumFramed(const Sequence& sequence) const;
  /// Whether the step must ask before it reads pages.
  bool NeedsGate(const Batch& batch) const;
  /// Whether a row of it may find that a page is not in memory.
  bool HasSpilled(const Sequence& sequence) const;
  /// Whether those that run want more than there is.
  bool IsOvercommitted() const;
  /// Of its page table, the first page that must have a frame while it runs.
  size_t FirstKept(const Sequence& sequence) const {
    return FirstKept(sequence, sequence.num_computed);
  }
  size_t FirstKept(const Sequence& sequence, int64_t num_computed) const;
  /// Frames for a sequence that is to run with these pages, beside those that they have.
  int64_t FramesNeeded(const Sequence& next, const std::vector<int32_t>& pages) const;
  /// Of pages without a frame, slots that a row of it reads in a layer, at most; and their frames.
  int64_t NumSlotsRead(const Sequence& sequence) const;
  int64_t SlotFrames(const Sequence& sequence) const;
  bool HasKeptPages(const Sequence& sequence) const;
  /// Frames that should be free or hold slots, which make place at once.
  int64_t SlotReserve() const;
  /// Of running sequences, pages that need no frame, and that no move is on.
  std::vector<int32_t> ColdPages() const;
  /// Of its frames, those of cold pages beyond what a row selects.
  int64_t NumExcessFrames(const Sequence& sequence) const;
  /// Frames that it is still to get, for what it has and wants.
  int64_t FramesPromised(const Sequence& sequence) const;
  /// Moves the coldest pages out until `num_frames` are free, now or soon; their slots stay while
  /// there is room.
  void SpillCold(int64_t num_frames);
  /// The same; where no block is free, waiting sequences are computed again.
  void SpillColdAtAnyCost(int64_t num_frames);
  bool CanSpillCold() const {
    return limits_.residency.enabled() && now_ >= next_cold_ && mover_.CanWrite(now_);
  }
  /// Starts what suspended sequences wait for, the first in line first, and wakes those who have
  /// it.
  void ServeSuspended();
  void UpdateSuspended(Sequence& sequence);
  bool HasInterruptionPages(const Sequence& sequence) const;
  /// Pins and begins to read what the interrupted layer needs; false where memory has no room.
  bool Grant(Sequence& sequence);
  /// Sees to room for a sequence that could not be granted; true: try again.
  bool MakeSlotRoom(Sequence& sequence);
  void Unpin(Sequence& sequence);
  /// Its rows begin anew with the first layer.
  void Abandon(Sequence& sequence);
  /// Whether a chunk is interrupted: there is place to keep one.
  bool KeepsAChunk() const;
  bool IsInterruptedChunk(const Sequence& sequence) const {
    return sequence.interruption.num_rows > 0 &&
           sequence.interruption.kept_row >= limits_.max_running;
  }
  /// Of the one that can go on.
  int64_t NumInterruptedChunkRows() const;
  /// Tokens of its next chunk, of at most `most`.
  int64_t ChunkOf(const Sequence& sequence, int64_t most);
  void NoteWhetherStuck(const Batch& batch);
  void NoteLoss(Sequence& sequence);

  absl::Status CheckSequences() const;
  absl::Status CheckSuspension(const Sequence& sequence) const;
  absl::Status CheckPins() const;
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
  StepCost step_cost_;
  FirstTokenGoal goal_;
  FairShare shares_;
  absl::Time last_observed_ = absl::InfinitePast();
  absl::Time busy_until_ = absl::InfinitePast();  // as a step under way will take
  double mean_output_ = 0;                        // tokens of those that lately ended; 0: none has
  absl::flat_hash_map<const Sequence*, absl::Status> refused_;  // by the latest Judge
  std::vector<std::unique_ptr<Sequence>> waiting_;              // sorted by each Schedule
  std::vector<std::unique_ptr<Sequence>> running_;              // by priority, then arrival
  std::vector<std::unique_ptr<Sequence>> preempted_;            // during Schedule
  absl::Time now_ = absl::InfinitePast();                       // of the latest Schedule
  bool erases_later_ = false;                                   // flushed while pages moved
  // Sequences that run with pages in the tier below.
  std::vector<int32_t> free_kept_rows_;              // of the runner's, for decode rows
  int gated_layer_ = -1;                             // the latest that Pass was asked about
  absl::Time next_cold_ = absl::InfinitePast();      // when cold pages may go out again
  absl::Time stuck_since_ = absl::InfiniteFuture();  // the first in line has had no way to get on
  MissCounts misses_;
  Preemptions preemptions_;
  DraftCounts drafts_;
  PrefixCounts prefixes_;
};

}  // namespace nsa::engine

#endif  // NSA_ENGINE_SCHEDULER_H_
