#include "engine/page_mover.h"

#include <utility>

#include "engine/log.h"

namespace nsa::engine {
namespace {

// A full or broken disk is not asked again at once; sequences are then computed again.
constexpr absl::Duration kRetryWrites = absl::Seconds(1);
// A disk that fails fails often: the log names one move of many, metrics count all.
constexpr absl::Duration kBetweenReports = absl::Seconds(10);

}  // namespace

void PageMover::Begin(int32_t page, Direction direction, absl::Time now) {
  if (!busy()) latest_progress_ = now;
  Move& move = moves_[static_cast<size_t>(page)];
  CHECK(move.direction == Direction::kNone) << "page " << page << " moves already";
  move = {.direction = direction, .keep = false};
  ++num_moving_;
  num_writes_ += direction == Direction::kOut ? 1 : 0;
  tier_->Start({.page = page,
                .block = pool_->block(page),
                .layer = -1,
                .out = direction == Direction::kOut,
                .status = absl::OkStatus()});
}

bool PageMover::Write(int32_t page, absl::Time now, bool keeps_slots) {
  if (!pool_->TakeBlock(page)) return false;
  Begin(page, Direction::kOut, now);
  moves_[static_cast<size_t>(page)].keeps_slots = keeps_slots;
  return true;
}

bool PageMover::ReadSlot(Slot slot, absl::Time now) {
  CHECK(!IsMoving(slot.page)) << "page " << slot.page << " moves as a whole";
  if (!pool_->TakeSlot(slot)) return false;
  if (!busy()) latest_progress_ = now;
  ++num_moving_;
  ++num_slot_reads_[static_cast<size_t>(slot.page)];
  tier_->Start({.page = slot.page,
                .block = pool_->block(slot.page),
                .layer = slot.layer,
                .out = false,
                .status = absl::OkStatus()});
  return true;
}

void PageMover::Read(int32_t page, absl::Time now) {
  CHECK(pool_->TakeFrame(page)) << "no frame for page " << page;
  Begin(page, Direction::kIn, now);
}

void PageMover::Report(const char* what, const absl::Status& status, absl::Time now) {
  if (now < next_report_) return;
  next_report_ = now + kBetweenReports;
  LOG(WARNING) << "KV spill: a page " << what << ": " << status.message();
}

PageMover::Ended PageMover::EndSlot(const PageMove& done, absl::Time now) {
  const Slot slot = {done.layer, done.page};
  CHECK(pool_->slots().state(slot) == SlotTable::State::kReading) << "page " << done.page;
  --num_slot_reads_[static_cast<size_t>(done.page)];
  const bool ok = done.status.ok();
  pool_->slots().Set(slot, ok ? SlotTable::State::kResident : SlotTable::State::kAbsent);
  (ok ? counts_.num_slots_in : counts_.num_failed_reads) += 1;
  if (!ok) Report("could not be read back and is computed again", done.status, now);
  return {.page = done.page, .layer = done.layer, .lost = !ok};
}

void PageMover::EndWrite(const PageMove& done, const Move& move, absl::Time now) {
  --num_writes_;
  const bool ok = done.status.ok();
  (ok ? counts_.num_pages_out : counts_.num_failed_writes) += 1;
  if (!ok) {
    next_write_ = now + kRetryWrites;
    Report("could not be written and stays in memory", done.status, now);
  }
  if (!ok || move.keep) {
    pool_->DropBlock(done.page);
  } else if (move.keeps_slots) {
    pool_->KeepAsSlots(done.page);
  } else {
    pool_->DropFrame(done.page);
  }
}

std::vector<PageMover::Ended> PageMover::TakeEnded(absl::Time now) {
  std::vector<Ended> all;
  if (num_moving_ == 0) return all;
  for (const PageMove& done : tier_->TakeEnded()) {
    latest_progress_ = now;
    --num_moving_;
    if (done.layer >= 0) {
      all.push_back(EndSlot(done, now));
      continue;
    }
    const Move move = std::exchange(moves_[static_cast<size_t>(done.page)], Move{});
    CHECK(move.direction != Direction::kNone) << "page " << done.page << " did not move";
    Ended& ended = all.emplace_back(Ended{.page = done.page});
    if (done.out) {
      EndWrite(done, move, now);
      continue;
    }
    ended.lost = !done.status.ok();
    (ended.lost ? counts_.num_failed_reads : counts_.num_pages_in) += 1;
    if (ended.lost) Report("could not be read back and is computed again", done.status, now);
    pool_->DropBlock(done.page);
  }
  return all;
}

SpillCounts PageMover::TakeCounts() { return std::exchange(counts_, SpillCounts{}); }

bool PageMover::Consistent() const {
  int32_t num_moving = 0, num_writes = 0;
  for (int32_t page = 0; page < pool_->num_pages(); ++page) {
    const Move& move = moves_[static_cast<size_t>(page)];
    int32_t num_reading = 0;
    for (int layer = 0; pool_->num_blocks() > 0 && layer < pool_->slots().num_layers(); ++layer) {
      const bool reading = pool_->slots().state({layer, page}) == SlotTable::State::kReading;
      num_reading += reading ? 1 : 0;
    }
    if (num_reading != num_slot_reads_[static_cast<size_t>(page)]) return false;
    num_moving += num_reading;
    if (move.direction == Direction::kNone) {
      // At rest content is in one place, but for slots, which are copies.
      if (pool_->has_frame(page) && pool_->block(page) >= 0) return false;
      continue;
    }
    if (!pool_->has_frame(page) || pool_->block(page) < 0) return false;
    ++num_moving;
    num_writes += move.direction == Direction::kOut ? 1 : 0;
  }
  return num_moving == num_moving_ && num_writes == num_writes_;
}

}  // namespace nsa::engine
