#include "engine/scheduler.h"

#include <algorithm>
#include <optional>
#include <ranges>
#include <span>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "engine/log.h"
#include "engine/text.h"
#include "kernels/tensor.h"

namespace nsa::engine {
namespace {

/// Decode rows and drafted rows of a step, beyond which nothing is drafted.
constexpr int64_t kMaxDraftRows = 24;
/// Frames kept free by moving idle pages out: some steps' worth of prompt.
constexpr int32_t kSpareFrames = 64;

}  // namespace

void Scheduler::Add(std::unique_ptr<Sequence> sequence) {
  shares_.Arrive(sequence->request.tenant);
  waiting_.push_back(std::move(sequence));
}

int64_t Scheduler::PriorityOf(const Sequence& sequence, absl::Time now) const {
  if (limits_.priority_ageing == absl::InfiniteDuration()) return sequence.request.priority;
  absl::Duration rest;
  const absl::Duration age = std::max(absl::ZeroDuration(), now - sequence.arrival);
  return sequence.request.priority - absl::IDivDuration(age, limits_.priority_ageing, &rest);
}

bool Scheduler::RunsBefore(const Sequence& a, const Sequence& b, absl::Time now) const {
  const int64_t first = PriorityOf(a, now), second = PriorityOf(b, now);
  return first != second ? first < second : a.arrival < b.arrival;
}

bool Scheduler::IsServedBefore(const Sequence& a, const Sequence& b, absl::Time now) const {
  const int64_t first = PriorityOf(a, now), second = PriorityOf(b, now);
  if (first != second) return first < second;
  const int64_t served = shares_.Served(a.request.tenant);
  const int64_t other = shares_.Served(b.request.tenant);
  if (served != other) return served < other;
  const absl::Time due = DueOf(a), later = DueOf(b);
  return due != later ? due < later : a.arrival < b.arrival;
}

/// The running by priority and arrival alone: who is served more may have to wait for its next
/// chunk, but it should not lose its pages for that.
void Scheduler::Sort(absl::Time now) {
  std::ranges::stable_sort(running_,
                           [&](const auto& a, const auto& b) { return RunsBefore(*a, *b, now); });
  std::ranges::stable_sort(
      waiting_, [&](const auto& a, const auto& b) { return IsServedBefore(*a, *b, now); });
}

void Scheduler::Admit(absl::Time now) {
  // Frames that running sequences still need for what they have: counted, so that a newcomer is not
  // let in only to be preempted.
  int64_t promised = 0;
  for (const auto& sequence : running_) promised += FramesPromised(*sequence);
  for (size_t i = 0; i < waiting_.size() && num_running() < num_places();) {
    Sequence& next = *waiting_[i];
    if (next.waits_for_prompt()) {
      ++i;
      continue;
    }
    // A place is worth nothing to it yet; and what others read it may then find in the cache.
    if (OthersAreRead(next, now)) break;
    const bool returns = !next.pages.empty();
    PrefixMatch match;
    if (!returns) match = cache_.Find(ChainOf(next), Findable(next));
    const std::vector<int32_t>& pages = returns ? next.pages : match.pages;
    const int64_t needed = FramesNeeded(next, pages);
    const int64_t room = cache_.num_available() - match.num_idle - promised;
    if (needed > room) {  // In order: nobody overtakes. But who waits behind it makes place.
      MakeRoomFor(next, needed - room);
      break;
    }
    if (!returns) BeginAt(next, std::move(match));
    if (!BringBack(next, room)) {
      if (!returns) ReleasePages(next);
      break;
    }
    promised += FramesPromised(next);
    if (!returns) CountPrefix(next);
    next.first_scheduled = std::min(next.first_scheduled, now);
    const auto place = std::ranges::upper_bound(
        running_, waiting_[i],
        [&](const auto& a, const auto& b) { return RunsBefore(*a, *b, now); });
    running_.insert(place, std::move(waiting_[i]));
    waiting_.erase(waiting_.begin() + static_cast<std::ptrdiff_t>(i));
  }
}

void Scheduler::MakeRoomFor(const Sequence& next, int64_t num_missing) {
  const int64_t unmet = num_missing - mover_.NumComing(now_);
  const int64_t held = NumFramesHeld(&next);
  int64_t num_excess = 0;
  for (const auto& sequence : running_) num_excess += NumExcessFrames(*sequence);
  if (unmet > held + num_excess) return;
  Evict(std::min(unmet, held), &next);
  if (unmet > held) SpillCold(pool_->num_free() + mover_.NumComing(now_) + unmet - held);
}

bool Scheduler::IsHopeless(const Sequence& sequence, absl::Time now) const {
  if (sequence.request.deadline == absl::InfiniteFuture() || sequence.num_generated() > 0) {
    return false;
  }
  if (running_.empty() && now - last_observed_ > kStale) return false;
  const double left = kOptimism * absl::ToDoubleSeconds(sequence.request.deadline - now);
  int64_t num_tokens = sequence.num_pending();
  if (step_cost_.SecondsAlone(num_tokens, limits_.max_step_tokens) <= left) return false;
  if (sequence.pages.empty()) {  // it may begin behind known pages
    const size_t known = cache_.Find(ChainOf(sequence), Findable(sequence)).pages.size();
    num_tokens -= static_cast<int64_t>(known) * kernels::kPageSize;
  }
  return step_cost_.SecondsAlone(num_tokens, limits_.max_step_tokens) > left;
}

absl::Status Scheduler::WhyOver(const Sequence& sequence, absl::Time now) const {
  const absl::Duration left = sequence.request.deadline - now;
  if (left <= absl::ZeroDuration()) {
    return absl::DeadlineExceededError(
        absl::StrFormat("deadline passed after %d of at most %d tokens",
                        sequence.num_known_generated(), sequence.max_tokens));
  }
  if (IsHopeless(sequence, now)) {
    return absl::DeadlineExceededError(
        absl::StrFormat("the deadline in %.1f s is too near to read a prompt of %d tokens",
                        absl::ToDoubleSeconds(left), sequence.num_prompt_tokens()));
  }
  if (const auto found = refused_.find(&sequence); found != refused_.end()) return found->second;
  if (IsStranded(sequence, now)) {
    return absl::UnavailableError(
        absl::StrFormat("%d tokens are more than memory holds (%d), and the spill tier fails",
                        sequence.num_tokens(), pool_->num_frames() * kernels::kPageSize));
  }
  return absl::OkStatus();
}

PrefixChain Scheduler::ChainOf(const Sequence& sequence) const {
  const Request& request = sequence.request;
  if (IsPrivate(sequence)) {
    // Choices of one prompt share its pages through the cache, under a root that no other has.
    if (request.sampling.n == 1) return {};
    return PrefixCache::Begin(absl::StrCat("choices/", request.id));
  }
  // What attention reads decides about the K and V of all layers but the first.
  const bool full = request.attention.mode == AttentionMode::kFull;
  const int32_t blocks = full ? 0 : BlocksOf(sequence);
  return PrefixCache::Begin(RootOf(blocks, request.cache_salt));
}

std::string Scheduler::RootOf(int32_t blocks, std::string_view salt) {
  return absl::StrCat(blocks, "/", View(salt));
}

std::vector<CacheEvent> Scheduler::BeginCacheEvents() {
  cache_.RecordEvents(true);
  return cache_.KnownPages();
}

std::span<const int32_t> Scheduler::Findable(const Sequence& sequence) {
  // Found pages give no logits. The rest of a prompt whose logprobs are wanted is computed.
  const bool all = !sequence.wants_prompt_logprobs();
  const std::span<const int32_t> tokens = sequence.tokens;
  return all ? tokens : tokens.first(static_cast<size_t>(sequence.num_prompt_logprobs));
}

bool Scheduler::IsPrivate(const Sequence& sequence) const {
  return !limits_.prefix_cache || sequence.request.bypass_prefix_cache;
}

int32_t Scheduler::BlocksOf(const Sequence& sequence) const {
  const int32_t own = sequence.request.attention.num_selected_blocks;
  return own > 0 ? own : limits_.default_blocks;
}

void Scheduler::BeginAt(Sequence& sequence, PrefixMatch match) {
  cache_.Use(match);
  sequence.chain = match.chain;
  sequence.pages = std::move(match.pages);
  sequence.num_computed = static_cast<int64_t>(sequence.pages.size()) * kernels::kPageSize;
  const int64_t num_whole = (sequence.num_prompt_tokens() - 1) / kernels::kPageSize;
  if (sequence.num_computed < num_whole * kernels::kPageSize && sequence.num_generated() == 0) {
    sequence.group->reader = &sequence;
  }
}

void Scheduler::CountPrefix(Sequence& sequence) {
  const bool is_first = sequence.index == 0 && sequence.num_preemptions == 0;
  if (!is_first || !sequence.chain.enabled || IsPrivate(sequence)) return;
  sequence.group->num_cached_tokens = sequence.num_computed;
  prefixes_.num_tokens += sequence.num_prompt_tokens();
  prefixes_.num_found += sequence.num_computed;
}

void Scheduler::Publish(Sequence& sequence) {
  PrefixChain& chain = sequence.chain;
  while (chain.enabled && (chain.num_pages + 1) * kernels::kPageSize <= sequence.num_computed) {
    int32_t& page = sequence.pages[static_cast<size_t>(chain.num_pages)];
    const auto tokens =
        std::span<const int32_t>(sequence.tokens)
            .subspan(static_cast<size_t>(chain.num_pages * kernels::kPageSize), kernels::kPageSize);
    page = cache_.Extend(chain, tokens, page);
  }
}

void Scheduler::ReleasePages(Sequence& sequence) {
  Abandon(sequence);
  // From the last on: of pages that become idle, those that continue others go first.
  const bool is_private = IsPrivate(sequence);
  for (const int32_t page : std::views::reverse(sequence.pages)) {
    is_private ? cache_.ReleaseForGood(page) : cache_.Release(page);
  }
  if (sequence.group->reader == &sequence) sequence.group->reader = nullptr;
  sequence.pages.clear();
  sequence.chain = {};
  sequence.num_computed = 0;
  sequence.suspended = false;
}

bool Scheduler::PreemptLastAfter(const Sequence& sequence) {
  // From the back: the sequence that would run last. Those before `sequence` may be in the batch
  // already; those after it are not.
  if (running_.back().get() == &sequence) return false;
  std::unique_ptr<Sequence> victim = std::move(running_.back());
  running_.pop_back();
  ++victim->num_preemptions;
  ++preemptions_.num_sequences;
  victim->suspended = false;
  Abandon(*victim);
  if (!mover_.CanWrite(now_)) GiveUp(*victim);
  preempted_.push_back(std::move(victim));
  return true;
}

bool Scheduler::Reserve(Sequence& sequence, int64_t num_tokens) {
  while (static_cast<int64_t>(sequence.pages.size()) < PagesFor(num_tokens)) {
    if (limits_.faults != nullptr && limits_.faults->Happens(Fault::kAllocation)) return false;
    const int32_t last = sequence.pages.empty() ? -1 : sequence.pages.back();
    const int64_t num_missing = PagesFor(std::ssize(sequence.tokens)) - std::ssize(sequence.pages);
    const std::optional<int32_t> page = cache_.Allocate(last, static_cast<int32_t>(num_missing));
    if (page.has_value()) {
      sequence.pages.push_back(*page);
    } else if (!MakeRoom(sequence,
                         PagesFor(num_tokens) - static_cast<int64_t>(sequence.pages.size()))) {
      return false;
    }
  }
  return true;
}

void Scheduler::AddEntry(Batch& batch, int32_t index, int64_t num_tokens) {
  Sequence& sequence = running(index);
  BatchEntry entry;
  entry.sequence_index = index;
  entry.tokens =
      std::span<const int32_t>(sequence.tokens)
          .subspan(static_cast<size_t>(sequence.num_computed), static_cast<size_t>(num_tokens));
  entry.num_cached = sequence.num_computed;
  entry.page_table = sequence.pages;
  entry.num_selected_blocks = BlocksOf(sequence);
  entry.full_attention = sequence.request.attention.mode == AttentionMode::kFull;
  entry.decodes = sequence.decoding();
  entry.samples = num_tokens == sequence.num_pending();
  entry.token_place = sequence.awaited_place;
  if (sequence.interruption.num_rows > 0) {
    entry.first_layer = sequence.interruption.layer;
    entry.kept_row = sequence.interruption.kept_row;
  }
  entry.num_logit_rows = entry.samples ? 1 : 0;
  if (sequence.wants_prompt_logprobs()) {
    // Those that predict a prompt token whose turn it is, and that of the first after the prompt.
    const int64_t end = sequence.num_computed + num_tokens;
    const int64_t num_rows = std::min(num_tokens, end - (sequence.num_prompt_logprobs - 1));
    entry.num_logit_rows = static_cast<int32_t>(std::max<int64_t>(num_rows, entry.num_logit_rows));
  }
  batch.num_rows += num_tokens;
  batch.entries.push_back(entry);
}

int64_t Scheduler::AddDraft(Batch& batch, BatchEntry& entry, int64_t limit) {
  Sequence& sequence = running(entry.sequence_index);
  if (sequence.prompt_lookup == nullptr) return 0;
  // Rows that go on are as many as they were, and drafts that missed would cost more than they
  // save.
  if (sequence.interruption.num_rows > 0 || HasSpilled(sequence)) return 0;
  const int64_t num_tokens = sequence.num_tokens();
  // The step adds one token more than it verifies.
  limit = std::min(limit, sequence.max_tokens - sequence.num_generated() - 1);
  limit = std::min(limit, (static_cast<int64_t>(sequence.pages.size()) + cache_.num_available()) *
                                  kernels::kPageSize -
                              num_tokens);
  const std::vector<int32_t> draft = sequence.prompt_lookup->Draft(sequence.tokens, limit);
  if (draft.empty()) return 0;
  const auto num_drafted = static_cast<int64_t>(draft.size());
  if (!Reserve(sequence, num_tokens + num_drafted)) return 0;
  sequence.verified.assign(1, sequence.tokens.back());
  sequence.verified.insert(sequence.verified.end(), draft.begin(), draft.end());
  entry.tokens = sequence.verified;
  entry.page_table = sequence.pages;
  entry.num_logit_rows = static_cast<int32_t>(entry.tokens.size());
  batch.num_rows += num_drafted;
  return num_drafted;
}

void Scheduler::AddInterruptedChunk(Batch& batch) {
  for (int32_t i = 0; limits_.residency.enabled() && i < num_running(); ++i) {
    const Sequence& sequence = running(i);
    if (sequence.suspended || !IsInterruptedChunk(sequence)) continue;
    AddEntry(batch, i, sequence.interruption.num_rows);
  }
}

void Scheduler::AddDecodeRows(Batch& batch) {
  // A chunk in the middle of its step has its place. (It is added later: until then it may be sent
  // away.)
  const int64_t most = limits_.max_step_tokens - NumInterruptedChunkRows();
  for (int32_t i = 0; i < num_running() && batch.num_rows < most; ++i) {
    Sequence& sequence = running(i);
    if (!sequence.decoding() || sequence.suspended) continue;
    if (sequence.num_generated() >= sequence.max_tokens) continue;  // it awaits its last token
    // Who is in the middle of a step ends it: pages are held for that.
    const bool goes_on = sequence.interruption.num_rows > 0;
    if (!goes_on && !sequence.sink->Ready()) continue;
    if (!goes_on && !Reserve(sequence, sequence.num_tokens())) continue;
    AddEntry(batch, i, 1);
  }
}

void Scheduler::AddPromptChunks(Batch& batch, absl::Time now) {
  int64_t budget = step_budget_.PromptTokens(batch.num_rows);
  bool keeps_a_chunk = KeepsAChunk();
  std::vector<int32_t> order;
  for (int32_t i = 0; i < num_running(); ++i) {
    const Sequence& sequence = running(i);
    const bool goes_on = sequence.interruption.num_rows > 0;  // and is in the batch already
    if (sequence.decoding() || sequence.suspended || goes_on) continue;
    if (sequence.sink->Ready()) order.push_back(i);
  }
  std::ranges::stable_sort(
      order, [&](int32_t a, int32_t b) { return IsServedBefore(running(a), running(b), now); });
  for (const int32_t i : order) {
    Sequence& sequence = running(i);
    const bool may_leave = HasSpilled(sequence);
    if (may_leave && keeps_a_chunk) continue;
    const int64_t chunk = ChunkOf(sequence, budget);
    if (chunk <= 0) continue;
    if (!Reserve(sequence, sequence.num_computed + chunk)) continue;
    AddEntry(batch, i, chunk);
    budget -= chunk;
    keeps_a_chunk = keeps_a_chunk || may_leave;
  }
}

Batch Scheduler::Schedule(absl::Time now) {
  now_ = now;
  SettleMoves();
  pool_->slots().BeginUse();
  gated_layer_ = -1;
  Sort(now);
  ServeSuspended();
  Admit(now);
  EvictForRunning();
  PreemptByFault();
  Batch batch;
  // Sequences with one token to go, then chunks. Preemption takes from the back and never touches
  // an index before the one at hand, but for chunks it could take a sequence that is in the batch:
  // so pages for decode rows are taken first, and a chunk whose pages are not there waits for the
  // next step.
  AddDecodeRows(batch);
  const size_t num_decode_entries = batch.entries.size();
  AddInterruptedChunk(batch);
  AddPromptChunks(batch, now);
  // What is left, up to a limit: beyond it rows cost as much as they can save.
  int64_t drafts = std::min(limits_.max_step_tokens - batch.num_rows,
                            kMaxDraftRows - static_cast<int64_t>(num_decode_entries));
  for (size_t i = 0; i < num_decode_entries && drafts > 0; ++i) {
    drafts -= AddDraft(batch, batch.entries[i], drafts);
  }
  if (NeedsGate(batch)) batch.gate = this;
  // Stuck: sequences hold pages and none can go on. The last gives way to the first.
  // (Not where somebody's last token is on its way.)
  if (batch.entries.empty() && num_running() > 1 && cache_.num_available() == 0 &&
      !mover_.IsExpectant(now) &&
      std::ranges::none_of(running_, [](const auto& s) { return s->awaits_token(); })) {
    PreemptLastAfter(running(0));
  }
  const int64_t spare = std::clamp(pool_->num_frames() / 8, 1, kSpareFrames);
  const int64_t reserve = SlotReserve();
  SpillIdle(spare + reserve);
  if (reserve > 0) SpillCold(spare + reserve);
  NoteWhetherStuck(batch);
  for (auto& sequence : preempted_) waiting_.push_back(std::move(sequence));
  preempted_.clear();
  return batch;
}

void Scheduler::Complete(const Batch& batch) {
  for (const BatchEntry& entry : batch.entries) Complete(running(entry.sequence_index), entry);
}

void Scheduler::Complete(Sequence& sequence, const BatchEntry& entry) {
  const auto num_tokens = static_cast<int64_t>(entry.tokens.size());
  Abandon(sequence);  // it has come to its end
  if (!entry.decodes && sequence.chunk_limit < limits_.max_step_tokens) {
    sequence.chunk_limit += sequence.chunk_limit / 4 + 1;
  }
  if (entry.samples) sequence.num_losses = 0;
  // Of drafted tokens those are in the sequence that were right; the token behind them is new.
  sequence.num_computed = std::min(entry.num_cached + num_tokens, sequence.num_tokens() - 1);
  Publish(sequence);
  if (sequence.num_computed >= sequence.num_prompt_tokens() &&
      sequence.group->reader == &sequence) {
    sequence.group->reader = nullptr;
  }
  shares_.Serve(sequence.request.tenant, num_tokens);
  if (sequence.verified.empty()) return;
  const int64_t accepted = std::max<int64_t>(0, sequence.num_computed - entry.num_cached - 1);
  sequence.prompt_lookup->Learn(num_tokens - 1, accepted);
  sequence.verified.clear();
  ++drafts_.num_drafts;
  drafts_.num_tokens += num_tokens - 1;
  drafts_.num_accepted += accepted;
}

std::vector<std::unique_ptr<Sequence>> Scheduler::Remove(std::string_view id) {
  return RemoveIf([id](const Sequence& sequence) { return sequence.id() == id; });
}

std::vector<std::unique_ptr<Sequence>> Scheduler::RemoveIf(
    const std::function<bool(const Sequence&)>& ended) {
  std::vector<std::unique_ptr<Sequence>> removed;
  for (auto* list : {&running_, &waiting_}) {
    for (auto& sequence : *list) {
      if (!ended(*sequence)) continue;
      NoteEnd(*sequence);
      ReleasePages(*sequence);
      shares_.Leave(sequence->request.tenant);
      removed.push_back(std::move(sequence));
    }
    std::erase(*list, nullptr);
  }
  return removed;
}

}  // namespace nsa::engine
