// The part of the scheduler that lets sequences run with pages in the tier below.

#include <algorithm>
#include <cstdint>
#include <ranges>
#include <span>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "engine/log.h"
#include "engine/scheduler.h"

namespace nsa::engine {
namespace {

/// After a page could not be read back, running sequences keep theirs for so long.
constexpr absl::Duration kDistrust = absl::Seconds(2);
/// Who can only get on with a tier that does not work is told so after so many losses, or so long.
constexpr int32_t kMostLosses = 4;
constexpr absl::Duration kPatience = absl::Seconds(30);

}  // namespace

bool Scheduler::IsPageable(const Sequence& sequence) const {
  return limits_.residency.enabled() && sequence.request.attention.mode != AttentionMode::kFull &&
         BlocksOf(sequence) > 0;
}

int64_t Scheduler::FramesWanted(const Sequence& sequence) const {
  const int64_t all = PagesFor(sequence.num_tokens() + 1);
  if (!IsPageable(sequence)) return all;
  const int64_t working = limits_.residency.WorkingFrames(BlocksOf(sequence));
  return std::min({all, working, int64_t{pool_->num_frames()}});
}

int64_t Scheduler::NumFramed(const Sequence& sequence) const {
  return std::ranges::count_if(sequence.pages,
                               [&](int32_t page) { return pool_->has_frame(page); });
}

bool Scheduler::HasSpilled(const Sequence& sequence) const {
  return !std::ranges::all_of(sequence.pages,
                              [&](int32_t page) { return mover_.IsInMemory(page); });
}

bool Scheduler::NeedsGate(const Batch& batch) const {
  if (!limits_.residency.enabled()) return false;
  return limits_.gates_all_steps ||
         std::ranges::any_of(batch.entries, [&](const BatchEntry& entry) {
           return entry.first_layer > 0 || HasSpilled(running(entry.sequence_index));
         });
}

bool Scheduler::IsOvercommitted() const {
  std::vector<bool> counted(static_cast<size_t>(pool_->num_pages()), false);
  int64_t num_frames = 0;
  for (const auto& sequence : running_) {
    int64_t num_own = 0;  // what is shared is needed once
    for (const int32_t page : sequence->pages) {
      num_own += counted[static_cast<size_t>(page)] ? 0 : 1;
      counted[static_cast<size_t>(page)] = true;
    }
    const int64_t wanted = FramesWanted(*sequence);
    num_frames +=
        std::min(num_own, wanted) + std::max<int64_t>(0, wanted - std::ssize(sequence->pages));
  }
  return num_frames > pool_->num_frames();
}

int64_t Scheduler::FramesPromised(const Sequence& sequence) const {
  // A draft that was wrong may have left a page more than that.
  int64_t held = std::ssize(sequence.pages);
  if (IsPageable(sequence)) held = NumFramed(sequence) - NumExcessFrames(sequence);
  return std::max<int64_t>(0, FramesWanted(sequence) - held);
}

size_t Scheduler::FirstKept(const Sequence& sequence, int64_t num_computed) const {
  if (!IsPageable(sequence)) return 0;
  const int64_t page = num_computed / kernels::kPageSize;
  return static_cast<size_t>(std::max<int64_t>(0, page - limits_.residency.kept_pages));
}

int64_t Scheduler::FramesNeeded(const Sequence& next, const std::vector<int32_t>& pages) const {
  const int64_t num_computed =
      next.pages.empty() ? std::ssize(pages) * kernels::kPageSize : next.num_computed;
  const auto kept = pages | std::views::drop(FirstKept(next, num_computed));
  const int64_t num_kept_out =
      std::ranges::count_if(kept, [&](int32_t page) { return !mover_.IsReady(page); });
  return std::max(num_kept_out, FramesWanted(next) - NumReady(pages));
}

int64_t Scheduler::NumSlotsRead(const Sequence& sequence) const {
  if (!IsPageable(sequence)) return 0;
  const int64_t num_spilled = std::ssize(sequence.pages) - NumFramed(sequence);
  return std::min(num_spilled, limits_.residency.RowPages(BlocksOf(sequence)));
}

int64_t Scheduler::SlotFrames(const Sequence& sequence) const {
  const int64_t num_layers = std::max(1, limits_.residency.num_layers);
  return (NumSlotsRead(sequence) + num_layers - 1) / num_layers;
}

bool Scheduler::HasKeptPages(const Sequence& sequence) const {
  return std::ranges::all_of(sequence.pages | std::views::drop(FirstKept(sequence)),
                             [&](int32_t page) { return mover_.IsReady(page); });
}

int64_t Scheduler::SlotReserve() const {
  if (!limits_.residency.enabled()) return 0;
  int64_t num_frames = 0;
  for (const auto& sequence : running_) num_frames += NumSlotsRead(*sequence);
  return num_frames;
}

std::vector<int32_t> Scheduler::ColdPages() const {
  std::vector<bool> excluded(static_cast<size_t>(pool_->num_pages()), false);
  for (const auto& sequence : running_) {
    for (const int32_t page : sequence->pages | std::views::drop(FirstKept(*sequence))) {
      excluded[static_cast<size_t>(page)] = true;
    }
  }
  // By when its slots were last selected, summed over layers.
  std::vector<std::pair<int64_t, int32_t>> pages;
  for (const auto& sequence : running_) {
    for (const int32_t page : sequence->pages | std::views::take(FirstKept(*sequence))) {
      if (excluded[static_cast<size_t>(page)] || !mover_.IsReady(page)) continue;
      excluded[static_cast<size_t>(page)] = true;
      int64_t last_use = 0;
      for (int layer = 0; layer < limits_.residency.num_layers; ++layer) {
        last_use += pool_->slots().last_use({layer, page});
      }
      pages.emplace_back(last_use, page);
    }
  }
  std::ranges::sort(pages);
  std::vector<int32_t> cold;
  for (const auto& [last_use, page] : pages) cold.push_back(page);
  return cold;
}

int64_t Scheduler::NumExcessFrames(const Sequence& sequence) const {
  if (!IsPageable(sequence)) return 0;
  const auto cold = sequence.pages | std::views::take(FirstKept(sequence));
  const int64_t num_cold =
      std::ranges::count_if(cold, [&](int32_t page) { return pool_->has_frame(page); });
  return std::max<int64_t>(0, num_cold - limits_.residency.RowPages(BlocksOf(sequence)));
}

void Scheduler::SpillCold(int64_t num_frames) {
  if (!CanSpillCold()) return;
  int64_t num_missing = num_frames - pool_->num_free() - mover_.NumComing(now_);
  if (num_missing <= 0) return;
  for (const int32_t page : ColdPages()) {
    if (num_missing-- <= 0 || !cache_.FreeBlock()) return;
    cache_.AddUser(page);
    CHECK(mover_.Write(page, now_, /*keeps_slots=*/true)) << "a block counted as free is not";
  }
}

void Scheduler::SpillColdAtAnyCost(int64_t num_frames) {
  if (!CanSpillCold() || ColdPages().empty()) return;
  for (auto* list : {&preempted_, &waiting_}) {
    for (auto& sequence : std::views::reverse(*list)) {
      if (!cache_.FreeBlock() && !sequence->pages.empty()) GiveUp(*sequence);
    }
  }
  SpillCold(num_frames);
}

void Scheduler::Unpin(Sequence& sequence) {
  Interruption& interruption = sequence.interruption;
  if (!std::exchange(interruption.is_granted, false)) return;
  for (const int32_t page : interruption.pages) {
    pool_->slots().Unpin({interruption.layer, page});
  }
}

void Scheduler::Abandon(Sequence& sequence) {
  if (sequence.interruption.num_rows == 0) return;
  Unpin(sequence);
  const int32_t kept_row = sequence.interruption.kept_row;
  if (kept_row < limits_.max_running) free_kept_rows_.push_back(kept_row);
  sequence.interruption = {};
}

bool Scheduler::KeepsAChunk() const {
  return std::ranges::any_of(running_,
                             [&](const auto& sequence) { return IsInterruptedChunk(*sequence); });
}

int64_t Scheduler::NumInterruptedChunkRows() const {
  int64_t num_rows = 0;
  for (const auto& sequence : running_) {
    const bool goes_on = IsInterruptedChunk(*sequence) && !sequence->suspended;
    num_rows += goes_on ? sequence->interruption.num_rows : 0;
  }
  return num_rows;
}

bool Scheduler::HasInterruptionPages(const Sequence& sequence) const {
  const Interruption& interruption = sequence.interruption;
  return std::ranges::all_of(interruption.pages, [&](int32_t page) {
    return mover_.IsReadable({interruption.layer, page});
  });
}

void Scheduler::UpdateSuspended(Sequence& sequence) {
  const Interruption& interruption = sequence.interruption;
  const bool waits_for_slots =
      interruption.num_rows > 0 && !(interruption.is_granted && HasInterruptionPages(sequence));
  sequence.suspended = waits_for_slots || !HasKeptPages(sequence);
}

int32_t Scheduler::Pass(const BatchEntry& entry, int layer, std::span<const int32_t> pages) {
  SlotTable& slots = pool_->slots();
  if (layer != std::exchange(gated_layer_, layer)) slots.BeginUse();
  Sequence& sequence = running(entry.sequence_index);
  Unpin(sequence);  // what is used now is not dropped before the next layer
  int64_t num_missing = 0;
  for (const int32_t index : pages) {
    const Slot slot = {layer, entry.page_table[static_cast<size_t>(index)]};
    slots.Touch(slot);
    num_missing += mover_.IsReadable(slot) ? 0 : 1;
  }
  if (num_missing == 0) return -1;
  misses_.num_slots += num_missing;
  misses_.num_rows += std::ssize(entry.tokens);
  Interruption& interruption = sequence.interruption;
  if (interruption.num_rows == 0) {
    interruption.kept_row = limits_.max_running;  // a chunk's, of which there is one
    if (entry.decodes) {
      interruption.kept_row = free_kept_rows_.back();
      free_kept_rows_.pop_back();
    }
  }
  interruption.num_rows = static_cast<int32_t>(entry.tokens.size());
  interruption.layer = layer;
  interruption.pages.clear();
  for (const int32_t index : pages) {
    interruption.pages.push_back(entry.page_table[static_cast<size_t>(index)]);
  }
  // Nobody overtakes who waits for room.
  const bool others_wait = std::ranges::any_of(running_, [](const auto& other) {
    return other->suspended && other->interruption.num_rows > 0 && !other->interruption.is_granted;
  });
  sequence.suspended = true;
  if (!others_wait) Grant(sequence);
  if (limits_.on_vacated) limits_.on_vacated();
  return interruption.kept_row;
}

bool Scheduler::TakeOutLeft(Batch& batch,
                            const std::function<void(const BatchEntry&)>& on_left) const {
  const size_t num_entries = batch.entries.size();
  const bool goes_on = std::ranges::any_of(
      batch.entries, [](const BatchEntry& entry) { return entry.first_layer > 0; });
  std::erase_if(batch.entries, [&](const BatchEntry& entry) {
    const bool left = running(entry.sequence_index).suspended;
    batch.num_rows -= left ? std::ssize(entry.tokens) : 0;
    if (left && on_left) on_left(entry);
    return left;
  });
  return !goes_on && batch.entries.size() == num_entries;
}

bool Scheduler::Grant(Sequence& sequence) {
  Interruption& interruption = sequence.interruption;
  SlotTable& slots = pool_->slots();
  const auto is_absent = [&](Slot slot) {
    return !pool_->has_frame(slot.page) && slots.state(slot) == SlotTable::State::kAbsent;
  };
  int64_t num_absent = 0;
  for (const int32_t page : interruption.pages) {
    const Slot slot = {interruption.layer, page};
    slots.Pin(slot);
    num_absent += is_absent(slot) ? 1 : 0;
  }
  interruption.is_granted = true;
  bool has_room = num_absent <= pool_->num_free_slots();
  for (const int32_t page : interruption.pages) {
    const Slot slot = {interruption.layer, page};
    if (!has_room || !is_absent(slot)) continue;
    cache_.AddUser(page);
    if (mover_.ReadSlot(slot, now_)) continue;
    cache_.Release(page);
    has_room = false;
  }
  if (!has_room) Unpin(sequence);
  return has_room;
}

bool Scheduler::MakeSlotRoom(Sequence& sequence) {
  // What moves may bring enough: nobody is disturbed before that is known.
  if (mover_.IsExpectant(now_)) return false;
  if (cache_.num_idle() > 0) {
    if (SpillIdle(pool_->num_free() + 1)) return false;
    if (cache_.oldest_idle() >= 0) cache_.Forget(cache_.oldest_idle());
    return true;
  }
  const int64_t num_free = pool_->num_free_slots();
  Evict(1, nullptr);
  if (mover_.IsExpectant(now_)) return false;
  if (pool_->num_free_slots() > num_free) return true;
  SpillColdAtAnyCost(pool_->num_free() + 1);
  if (mover_.IsExpectant(now_)) return false;
  if (pool_->num_free_slots() > num_free) return true;
  const int32_t num_rows = sequence.interruption.num_rows;
  if (num_rows > 1) {  // fewer rows select fewer pages
    Abandon(sequence);
    sequence.chunk_limit = num_rows / 2;
    while (std::ssize(sequence.pages) > PagesFor(sequence.num_computed + sequence.chunk_limit)) {
      cache_.Release(sequence.pages.back());
      sequence.pages.pop_back();
    }
    return true;
  }
  return PreemptLastAfter(sequence);
}

void Scheduler::ServeSuspended() {
  if (!limits_.residency.enabled()) return;
  for (const auto& sequence : running_) {
    if (!sequence->suspended) continue;
    for (const int32_t page : sequence->pages | std::views::drop(FirstKept(*sequence))) {
      if (mover_.IsReady(page) || mover_.NumMoves(page) > 0) continue;
      if (!cache_.FreeFrame()) break;
      cache_.AddUser(page);
      mover_.Read(page, now_);
    }
  }
  bool has_room = true;
  for (int32_t i = 0; has_room && i < num_running(); ++i) {
    Sequence& sequence = running(i);
    const auto waits = [&] {
      return sequence.interruption.num_rows > 0 && !sequence.interruption.is_granted;
    };
    while (has_room && waits() && !Grant(sequence)) has_room = MakeSlotRoom(sequence);
  }
  for (const auto& sequence : running_) {
    if (sequence->suspended) UpdateSuspended(*sequence);
  }
}

int64_t Scheduler::ChunkOf(const Sequence& sequence, int64_t most) {
  const auto num_held = std::ssize(sequence.pages);
  const int64_t wanted = PagesFor(sequence.num_computed + std::min(most, sequence.num_pending()));
  // A chunk waits for idle pages on their way out rather than have what they hold forgotten.
  int64_t num_pages =
      SpillIdle(wanted - num_held) ? pool_->num_free() : int64_t{cache_.num_available()};
  if (HasSpilled(sequence)) {
    most = std::min({most, sequence.chunk_limit,
                     std::max<int64_t>(1, limits_.max_step_tokens - num_running())});
    num_pages -= SlotFrames(sequence);  // where its rows read
  }
  const int64_t room = (num_held + num_pages) * kernels::kPageSize - sequence.num_computed;
  return std::min({most, sequence.num_pending(), room});
}

bool Scheduler::IsStranded(const Sequence& sequence, absl::Time now) const {
  if (!IsPageable(sequence) || PagesFor(sequence.num_tokens() + 1) <= pool_->num_frames()) {
    return false;
  }
  const bool is_first = !running_.empty() && running_.front().get() == &sequence;
  return sequence.num_losses >= kMostLosses || (is_first && now - stuck_since_ >= kPatience);
}

void Scheduler::NoteWhetherStuck(const Batch& batch) {
  const bool is_stuck = batch.entries.empty() && num_running() > 0 &&
                        running_.front()->sink->Ready() && !mover_.IsExpectant(now_);
  if (!is_stuck) {
    stuck_since_ = absl::InfiniteFuture();
  } else if (stuck_since_ == absl::InfiniteFuture()) {
    stuck_since_ = now_;
  }
}

void Scheduler::NoteLoss(Sequence& sequence) {
  ++sequence.num_losses;
  next_cold_ = now_ + kDistrust;
}

}  // namespace nsa::engine
