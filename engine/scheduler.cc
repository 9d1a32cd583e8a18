#include "engine/scheduler.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "engine/log.h"
#include "kernels/tensor.h"

namespace nsa::engine {
namespace {

bool RunsBefore(const Sequence& a, const Sequence& b) {
  if (a.request.priority != b.request.priority) return a.request.priority < b.request.priority;
  return a.arrival < b.arrival;
}

void InsertSorted(std::vector<std::unique_ptr<Sequence>>& list,
                  std::unique_ptr<Sequence> sequence) {
  const auto place =
      std::upper_bound(list.begin(), list.end(), sequence,
                       [](const auto& a, const auto& b) { return RunsBefore(*a, *b); });
  list.insert(place, std::move(sequence));
}

int64_t PagesFor(int64_t num_tokens) {
  return (num_tokens + kernels::kPageSize - 1) / kernels::kPageSize;
}

}  // namespace

void Scheduler::Add(std::unique_ptr<Sequence> sequence) {
  InsertSorted(waiting_, std::move(sequence));
}

void Scheduler::Admit(absl::Time now) {
  // Pages that running sequences still need for what they have: counted, so that a newcomer is not
  // let in only to be preempted.
  int64_t promised = 0;
  for (const auto& sequence : running_) {
    promised += PagesFor(sequence->num_tokens() + 1) - static_cast<int64_t>(sequence->pages.size());
  }
  while (!waiting_.empty() && num_running() < limits_.max_running) {
    Sequence& next = *waiting_.front();
    const int64_t needed = PagesFor(next.num_tokens() + 1);
    if (promised + needed > pool_->num_free()) break;  // in order: nobody overtakes
    promised += needed;
    next.first_scheduled = std::min(next.first_scheduled, now);
    InsertSorted(running_, std::move(waiting_.front()));
    waiting_.erase(waiting_.begin());
  }
}

void Scheduler::ReleasePages(Sequence& sequence) {
  for (const int32_t page : sequence.pages) pool_->Release(page);
  sequence.pages.clear();
  sequence.num_computed = 0;
}

bool Scheduler::PreemptLastAfter(const Sequence& sequence) {
  // From the back: the sequence that would run last. Those before `sequence` may be in the batch
  // already; those after it are not.
  if (running_.back().get() == &sequence) return false;
  std::unique_ptr<Sequence> victim = std::move(running_.back());
  running_.pop_back();
  ++victim->num_preemptions;
  ++num_preemptions_;
  num_recomputed_tokens_ += victim->num_computed;
  ReleasePages(*victim);
  preempted_.push_back(std::move(victim));
  return true;
}

bool Scheduler::Reserve(Sequence& sequence, int64_t num_tokens) {
  while (static_cast<int64_t>(sequence.pages.size()) < PagesFor(num_tokens)) {
    const std::optional<int32_t> page = pool_->Allocate();
    if (page.has_value()) {
      sequence.pages.push_back(*page);
    } else if (!PreemptLastAfter(sequence)) {
      return false;
    }
  }
  return true;
}

void Scheduler::AddEntry(Batch& batch, int32_t index, int64_t num_tokens, int32_t default_blocks) {
  Sequence& sequence = running(index);
  BatchEntry entry;
  entry.sequence_index = index;
  entry.tokens =
      std::span<const int32_t>(sequence.tokens)
          .subspan(static_cast<size_t>(sequence.num_computed), static_cast<size_t>(num_tokens));
  entry.num_cached = sequence.num_computed;
  entry.page_table = sequence.pages;
  const int32_t own = sequence.request.attention.num_selected_blocks;
  entry.num_selected_blocks = own > 0 ? own : default_blocks;
  entry.full_attention = sequence.request.attention.mode == AttentionMode::kFull;
  entry.num_logit_rows = num_tokens == sequence.num_pending() ? 1 : 0;
  batch.num_rows += num_tokens;
  batch.entries.push_back(entry);
}

Batch Scheduler::Schedule(int32_t default_blocks, absl::Time now) {
  Admit(now);
  Batch batch;
  int64_t budget = limits_.max_step_tokens;
  // Two passes in running order: sequences with one token to go, then chunks. Preemption takes from
  // the back and never touches an index before the one at hand, but in the second pass it could
  // take a sequence that is in the batch: so pages for decode rows are taken first, and a chunk
  // whose pages are not there waits for the next step.
  for (int32_t i = 0; i < num_running() && budget > 0; ++i) {
    Sequence& sequence = running(i);
    if (!sequence.decoding() || !sequence.sink->Ready()) continue;
    if (!Reserve(sequence, sequence.num_tokens())) break;
    AddEntry(batch, i, 1, default_blocks);
    --budget;
  }
  for (int32_t i = 0; i < num_running() && budget > 0; ++i) {
    Sequence& sequence = running(i);
    if (sequence.decoding() || !sequence.sink->Ready()) continue;
    int64_t chunk = std::min(budget, sequence.num_pending());
    const int64_t room =
        (static_cast<int64_t>(sequence.pages.size()) + pool_->num_free()) * kernels::kPageSize -
        sequence.num_computed;
    chunk = std::min(chunk, room);
    if (chunk <= 0) continue;
    CHECK(Reserve(sequence, sequence.num_computed + chunk)) << "pages counted as free are not";
    AddEntry(batch, i, chunk, default_blocks);
    budget -= chunk;
  }
  // Stuck: sequences hold pages and none can go on. The last gives way to the first.
  if (batch.entries.empty() && num_running() > 1 && pool_->num_free() == 0) {
    PreemptLastAfter(running(0));
  }
  for (auto& sequence : preempted_) InsertSorted(waiting_, std::move(sequence));
  preempted_.clear();
  return batch;
}

void Scheduler::Complete(const Batch& batch) {
  for (const BatchEntry& entry : batch.entries) {
    running(entry.sequence_index).num_computed += static_cast<int64_t>(entry.tokens.size());
  }
}

std::unique_ptr<Sequence> Scheduler::Remove(std::string_view id) {
  auto removed = RemoveIf([id](const Sequence& sequence) { return sequence.id() == id; });
  return removed.empty() ? nullptr : std::move(removed.front());
}

std::vector<std::unique_ptr<Sequence>> Scheduler::RemoveIf(
    const std::function<bool(const Sequence&)>& ended) {
  std::vector<std::unique_ptr<Sequence>> removed;
  for (auto* list : {&running_, &waiting_}) {
    for (auto& sequence : *list) {
      if (!ended(*sequence)) continue;
      ReleasePages(*sequence);
      removed.push_back(std::move(sequence));
    }
    std::erase(*list, nullptr);
  }
  return removed;
}

int64_t Scheduler::num_waiting_tokens() const {
  int64_t total = 0;
  for (const auto& sequence : waiting_) total += sequence->num_tokens();
  return total;
}

bool Scheduler::Consistent() const {
  std::vector<int32_t> held;
  for (const auto* list : {&running_, &waiting_}) {
    for (const auto& sequence : *list) {
      if (sequence->num_computed >
          static_cast<int64_t>(sequence->pages.size()) * kernels::kPageSize) {
        return false;
      }
      held.insert(held.end(), sequence->pages.begin(), sequence->pages.end());
    }
  }
  std::sort(held.begin(), held.end());
  const bool unique = std::adjacent_find(held.begin(), held.end()) == held.end();
  return unique && static_cast<int32_t>(held.size()) == pool_->num_active() && pool_->Consistent();
}

}  // namespace nsa::engine
