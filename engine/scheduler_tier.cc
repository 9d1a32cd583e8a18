// The part of the scheduler that moves pages between memory and the tier below.

#include <algorithm>
#include <ranges>
#include <utility>

#include "engine/log.h"
#include "engine/scheduler.h"

namespace nsa::engine {

int64_t Scheduler::NumReady(const std::vector<int32_t>& pages) const {
  return std::ranges::count_if(pages, [&](int32_t page) { return mover_.IsReady(page); });
}

bool Scheduler::BringBack(Sequence& sequence, int64_t room) {
  const auto is_out = [&](int32_t page) { return !pool_->has_frame(page); };
  size_t first = 0;
  if (std::ranges::count_if(sequence.pages, is_out) > room) first = FirstKept(sequence);
  const auto pages = sequence.pages | std::views::drop(first);
  const int64_t num_reads = std::ranges::count_if(pages, is_out);
  if (num_reads > pool_->num_free() && SpillIdle(num_reads)) return false;
  for (const int32_t page : pages) {
    if (mover_.IsReady(page)) continue;
    sequence.suspended = true;
    if (mover_.IsMoving(page)) mover_.Keep(page);
    if (mover_.NumMoves(page) > 0) continue;
    CHECK(cache_.FreeFrame()) << "a sequence was admitted without place";
    cache_.AddUser(page);
    mover_.Read(page, now_);
  }
  return true;
}

void Scheduler::SettleMoves() {
  const std::vector<PageMover::Ended> ended = mover_.TakeEnded(now_);
  if (ended.empty()) return;
  for (const PageMover::Ended& move : ended) {
    if (move.lost) Lose(move.page);
    cache_.Release(move.page);
  }
  for (const auto& sequence : running_) {
    if (sequence->suspended) UpdateSuspended(*sequence);
  }
  if (erases_later_) {
    mover_.EraseFreeBlocks();
    erases_later_ = mover_.busy();
  }
}

void Scheduler::Lose(int32_t page) {
  if (cache_.IsKnown(page)) cache_.Forget(page);
  const auto has_page = [page](const auto& sequence) {
    return std::ranges::find(sequence->pages, page) != sequence->pages.end();
  };
  for (auto* list : {&running_, &waiting_}) {
    for (auto& sequence : *list) {
      if (!has_page(sequence)) continue;
      NoteLoss(*sequence);
      GiveUp(*sequence);
      if (list == &running_) waiting_.push_back(std::move(sequence));
    }
    std::erase(*list, nullptr);
  }
}

void Scheduler::GiveUp(Sequence& sequence) {
  preemptions_.num_recomputed_tokens += sequence.num_computed;
  ReleasePages(sequence);
}

std::vector<bool> Scheduler::PagesInUse(const Sequence* except) const {
  std::vector<bool> in_use(static_cast<size_t>(pool_->num_pages()), false);
  const auto mark = [&](const Sequence& sequence) {
    for (const int32_t page : sequence.pages) in_use[static_cast<size_t>(page)] = true;
  };
  for (const auto& sequence : running_) mark(*sequence);
  if (except != nullptr) mark(*except);
  return in_use;
}

int64_t Scheduler::NumFramesHeld(const Sequence* except) const {
  std::vector<bool> counted = PagesInUse(except);
  int64_t num_frames = 0;
  for (const auto& sequence : waiting_) {
    for (const int32_t page : sequence->pages) {
      if (counted[static_cast<size_t>(page)] || !mover_.IsReady(page)) continue;
      counted[static_cast<size_t>(page)] = true;
      ++num_frames;
    }
  }
  return num_frames;
}

int64_t Scheduler::EvictFrom(Sequence& sequence, int64_t num_frames,
                             const std::vector<bool>& in_use) {
  int64_t num_evicted = 0;
  for (const int32_t page : std::views::reverse(sequence.pages)) {
    if (num_evicted >= num_frames) break;
    if (in_use[static_cast<size_t>(page)] || !mover_.IsReady(page)) continue;
    if (!mover_.CanWrite(now_) || !cache_.FreeBlock()) {
      const int32_t before = cache_.num_available();
      GiveUp(sequence);
      return num_evicted + cache_.num_available() - before;
    }
    cache_.AddUser(page);
    CHECK(mover_.Write(page, now_)) << "a block counted as free is not";
    ++num_evicted;
  }
  return num_evicted;
}

void Scheduler::Evict(int64_t num_frames, const Sequence* except) {
  if (num_frames <= 0) return;
  const std::vector<bool> in_use = PagesInUse(except);
  for (auto* list : {&preempted_, &waiting_}) {
    for (auto& sequence : std::views::reverse(*list)) {
      if (sequence.get() == except || sequence->pages.empty()) continue;
      num_frames -= EvictFrom(*sequence, num_frames, in_use);
      if (num_frames <= 0) return;
    }
  }
}

void Scheduler::EvictForRunning() {
  int64_t num_missing = -int64_t{cache_.num_available()} - mover_.NumComing(now_);
  for (const auto& sequence : running_) {
    const int64_t num_tokens = std::min(sequence->num_pending(), limits_.max_step_tokens);
    const int64_t pages = PagesFor(sequence->num_computed + num_tokens);
    num_missing += std::max<int64_t>(0, pages - static_cast<int64_t>(sequence->pages.size()));
    num_missing += SlotFrames(*sequence);
  }
  Evict(num_missing, nullptr);
  if (num_missing > 0 && !IsOvercommitted()) {
    SpillCold(int64_t{cache_.num_available()} + mover_.NumComing(now_) + num_missing);
  }
}

bool Scheduler::MakeRoom(const Sequence& sequence, int64_t num_missing) {
  Evict(num_missing - mover_.NumComing(now_), nullptr);
  if (cache_.num_available() > 0) return true;
  if (!IsOvercommitted()) SpillColdAtAnyCost(num_missing);
  // What moves may bring enough: nobody is sent away before that is known.
  if (mover_.IsExpectant(now_)) return false;
  // Nor where somebody's pages are free when the step under way has ended.
  const auto is_ending = [](const auto& other) { return other->awaits_last_token(); };
  if (std::ranges::any_of(running_, is_ending)) return false;
  return PreemptLastAfter(sequence);
}

void Scheduler::PreemptByFault() {
  if (limits_.faults == nullptr || !limits_.faults->PreemptsNow() || num_running() < 2) return;
  if (PreemptLastAfter(running(0))) {
    Evict(static_cast<int64_t>(preempted_.back()->pages.size()), &running(0));
  }
}

bool Scheduler::SpillIdle(int64_t num_frames) {
  while (mover_.CanWrite(now_) && cache_.num_idle() > 0 &&
         pool_->num_free() + mover_.NumComing(now_) < num_frames && cache_.FreeBlock()) {
    const int32_t page = cache_.oldest_idle();
    if (page < 0) break;  // it continued one that was forgotten for its block
    cache_.AddUser(page);
    CHECK(mover_.Write(page, now_)) << "a block counted as free is not";
  }
  return pool_->num_free() < num_frames && mover_.NumComing(now_) > 0;
}

int32_t Scheduler::FlushCache() {
  const int32_t num_freed = cache_.Clear();
  mover_.EraseFreeBlocks();
  erases_later_ = mover_.busy();
  return num_freed;
}

}  // namespace nsa::engine
