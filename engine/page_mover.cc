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
                .out = direction == Direction::kOut,
                .status = absl::OkStatus()});
}

bool PageMover::Write(int32_t page, absl::Time now) {
  if (!pool_->TakeBlock(page)) return false;
  Begin(page, Direction::kOut, now);
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

std::vector<PageMover::Ended> PageMover::TakeEnded(absl::Time now) {
  std::vector<Ended> all;
  if (num_moving_ == 0) return all;
  for (const PageMove& done : tier_->TakeEnded()) {
    latest_progress_ = now;
    const Move move = std::exchange(moves_[static_cast<size_t>(done.page)], Move{});
    CHECK(move.direction != Direction::kNone) << "page " << done.page << " did not move";
    --num_moving_;
    Ended& ended = all.emplace_back(Ended{.page = done.page});
    if (done.out) {
      --num_writes_;
      const bool ok = done.status.ok();
      (ok ? counts_.num_pages_out : counts_.num_failed_writes) += 1;
      if (!ok) {
        next_write_ = now + kRetryWrites;
        Report("could not be written and stays in memory", done.status, now);
      }
      if (ok && !move.keep) {
        pool_->DropFrame(done.page);
      } else {
        pool_->DropBlock(done.page);
      }
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
    if (move.direction == Direction::kNone) {
      // At rest content is in one place.
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
