#include "engine/scheduler.h"

#include <algorithm>
#include <optional>
#include <ranges>
#include <span>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/log.h"
#include "engine/text.h"
#include "kernels/tensor.h"

namespace nsa::engine {
namespace {

/// Decode rows and drafted rows of a step, beyond which nothing is drafted.
constexpr int64_t kMaxDraftRows = 24;
/// Frames kept free by moving idle pages out: some steps' worth of prompt.
constexpr int32_t kSpareFrames = 64;
/// How much faster than lately measured a prompt may be read, for what it is worth to a deadline.
constexpr double kOptimism = 1.5;

int64_t PagesFor(int64_t num_tokens) {
  return (num_tokens + kernels::kPageSize - 1) / kernels::kPageSize;
}

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
  return served != other ? served < other : a.arrival < b.arrival;
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
  // Pages that running sequences still need for what they have: counted, so that a newcomer is not
  // let in only to be preempted.
  int64_t promised = 0;
  for (const auto& sequence : running_) {
    // A draft that was wrong may have left a page more than that.
    promised += std::max<int64_t>(
        0, PagesFor(sequence->num_tokens() + 1) - static_cast<int64_t>(sequence->pages.size()));
  }
  for (size_t i = 0; i < waiting_.size() && num_running() < limits_.max_running;) {
    Sequence& next = *waiting_[i];
    if (next.waits_for_prompt()) {
      ++i;
      continue;
    }
    const bool returns = !next.pages.empty();
    PrefixMatch match;
    if (!returns) match = cache_.Find(ChainOf(next), Findable(next));
    const int64_t needed =
        PagesFor(next.num_tokens() + 1) - NumReady(returns ? next.pages : match.pages);
    const int64_t missing = promised + needed - (cache_.num_available() - match.num_idle);
    if (missing > 0) {  // In order: nobody overtakes. But who waits behind it makes place.
      const int64_t unmet = missing - mover_.NumComing(now);
      if (unmet <= NumFramesHeld(&next)) Evict(unmet, &next);
      break;
    }
    if (!returns) BeginAt(next, std::move(match));
    if (!BringBack(next)) {
      if (!returns) ReleasePages(next);
      break;
    }
    promised += PagesFor(next.num_tokens() + 1) - static_cast<int64_t>(next.pages.size());
    if (!returns) CountPrefix(next);
    next.first_scheduled = std::min(next.first_scheduled, now);
    const auto place = std::ranges::upper_bound(
        running_, waiting_[i],
        [&](const auto& a, const auto& b) { return RunsBefore(*a, *b, now); });
    running_.insert(place, std::move(waiting_[i]));
    waiting_.erase(waiting_.begin() + static_cast<std::ptrdiff_t>(i));
  }
}

bool Scheduler::IsHopeless(const Sequence& sequence, absl::Time now) const {
  if (sequence.request.deadline == absl::InfiniteFuture() || sequence.num_generated() > 0) {
    return false;
  }
  const absl::Duration left = (sequence.request.deadline - now) * kOptimism;
  int64_t num_tokens = sequence.num_pending();
  if (step_budget_.PromptTime(num_tokens) <= left) return false;
  if (sequence.pages.empty()) {  // it may begin behind known pages
    const size_t known = cache_.Find(ChainOf(sequence), Findable(sequence)).pages.size();
    num_tokens -= static_cast<int64_t>(known) * kernels::kPageSize;
  }
  return step_budget_.PromptTime(num_tokens) > left;
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

void Scheduler::AddDecodeRows(Batch& batch) {
  for (int32_t i = 0; i < num_running() && batch.num_rows < limits_.max_step_tokens; ++i) {
    Sequence& sequence = running(i);
    if (!sequence.decoding() || sequence.suspended || !sequence.sink->Ready()) continue;
    if (!Reserve(sequence, sequence.num_tokens())) continue;
    AddEntry(batch, i, 1);
  }
}

void Scheduler::AddPromptChunks(Batch& batch, absl::Time now) {
  int64_t budget = step_budget_.PromptTokens(batch.num_rows);
  std::vector<int32_t> order;
  for (int32_t i = 0; i < num_running(); ++i) {
    const Sequence& sequence = running(i);
    if (!sequence.decoding() && !sequence.suspended && sequence.sink->Ready()) order.push_back(i);
  }
  std::ranges::stable_sort(
      order, [&](int32_t a, int32_t b) { return IsServedBefore(running(a), running(b), now); });
  for (const int32_t i : order) {
    Sequence& sequence = running(i);
    const auto num_held = static_cast<int64_t>(sequence.pages.size());
    const int64_t wanted =
        PagesFor(sequence.num_computed + std::min(budget, sequence.num_pending())) - num_held;
    // A chunk waits for idle pages on their way out rather than have what they hold forgotten.
    const int64_t num_pages = SpillIdle(wanted) ? pool_->num_free() : cache_.num_available();
    const int64_t room = (num_held + num_pages) * kernels::kPageSize - sequence.num_computed;
    const int64_t chunk = std::min({budget, sequence.num_pending(), room});
    if (chunk <= 0) continue;
    if (!Reserve(sequence, sequence.num_computed + chunk)) continue;
    AddEntry(batch, i, chunk);
    budget -= chunk;
  }
}

Batch Scheduler::Schedule(absl::Time now) {
  now_ = now;
  SettleMoves();
  Sort(now);
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
  AddPromptChunks(batch, now);
  // What is left, up to a limit: beyond it rows cost as much as they can save.
  int64_t drafts = std::min(limits_.max_step_tokens - batch.num_rows,
                            kMaxDraftRows - static_cast<int64_t>(num_decode_entries));
  for (size_t i = 0; i < num_decode_entries && drafts > 0; ++i) {
    drafts -= AddDraft(batch, batch.entries[i], drafts);
  }
  // Stuck: sequences hold pages and none can go on. The last gives way to the first.
  if (batch.entries.empty() && num_running() > 1 && cache_.num_available() == 0 &&
      !mover_.IsExpectant(now)) {
    PreemptLastAfter(running(0));
  }
  SpillIdle(std::clamp(pool_->num_frames() / 8, 1, kSpareFrames));
  for (auto& sequence : preempted_) waiting_.push_back(std::move(sequence));
  preempted_.clear();
  return batch;
}

void Scheduler::Complete(const Batch& batch) {
  for (const BatchEntry& entry : batch.entries) {
    Sequence& sequence = running(entry.sequence_index);
    const auto num_tokens = static_cast<int64_t>(entry.tokens.size());
    // Of drafted tokens those are in the sequence that were right; the token behind them is new.
    sequence.num_computed = std::min(entry.num_cached + num_tokens, sequence.num_tokens() - 1);
    Publish(sequence);
    if (sequence.num_computed >= sequence.num_prompt_tokens() &&
        sequence.group->reader == &sequence) {
      sequence.group->reader = nullptr;
    }
    shares_.Serve(sequence.request.tenant, num_tokens);
    if (sequence.verified.empty()) continue;
    const int64_t accepted = std::max<int64_t>(0, sequence.num_computed - entry.num_cached - 1);
    sequence.prompt_lookup->Learn(num_tokens - 1, accepted);
    sequence.verified.clear();
    ++drafts_.num_drafts;
    drafts_.num_tokens += num_tokens - 1;
    drafts_.num_accepted += accepted;
  }
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
      ReleasePages(*sequence);
      shares_.Leave(sequence->request.tenant);
      removed.push_back(std::move(sequence));
    }
    std::erase(*list, nullptr);
  }
  return removed;
}

}  // namespace nsa::engine
