#ifndef NSA_ENGINE_PAGE_MOVER_H_
#define NSA_ENGINE_PAGE_MOVER_H_

#include <cstdint>
#include <vector>

#include "absl/time/time.h"
#include "engine/metrics.h"
#include "engine/page_pool.h"
#include "engine/page_tier.h"

namespace nsa::engine {

/// Moves pages between memory and the tier below, and keeps the pool's books about it. Who starts a
/// move is a user of the page until TakeEnded has named it, so that nobody else gets the page
/// before the move has ended. Engine thread.
class PageMover {
 public:
  /// `tier` may be null: then nothing moves.
  PageMover(PagePool* pool, PageTier* tier)
      : pool_(pool),
        tier_(tier),
        moves_(static_cast<size_t>(pool->num_pages())),
        num_slot_reads_(moves_.size(), 0) {}

  /// Whether there is a tier to write to. For a while after a write failed there is none, nor while
  /// it hangs.
  bool CanWrite(absl::Time now) const {
    return tier_ != nullptr && now >= next_write_ && !(busy() && Hangs(now));
  }
  /// Whether moves are under way that should end soon.
  bool IsExpectant(absl::Time now) const { return busy() && !Hangs(now); }
  /// Starts to bring a page out that has a frame and does not move; false where no block is free.
  /// `keeps_slots`: memory stays with its slots (PagePool::KeepAsSlots).
  bool Write(int32_t page, absl::Time now, bool keeps_slots = false);
  /// Starts to bring a page back, for which it takes a frame: there must be one.
  void Read(int32_t page, absl::Time now);
  /// Starts to read a slot of a page that is in the tier; false where there is no memory for it.
  bool ReadSlot(Slot slot, absl::Time now);
  /// The page is needed in memory: one that is being written keeps its frame.
  void Keep(int32_t page) { moves_[static_cast<size_t>(page)].keep = true; }

  /// A move that has ended: frame and block of the page are as they should be.
  struct Ended {
    int32_t page = 0;
    int layer = -1;     // −1: the whole page
    bool lost = false;  // could not be read back: the content is gone
  };
  std::vector<Ended> TakeEnded(absl::Time now);

  /// Erases what free blocks still hold.
  void EraseFreeBlocks() {
    if (tier_ != nullptr) tier_->Erase(pool_->free_blocks());
  }

  /// In memory and at rest.
  bool IsReady(int32_t page) const { return pool_->has_frame(page) && !IsMoving(page); }
  bool IsMoving(int32_t page) const {
    return moves_[static_cast<size_t>(page)].direction != Direction::kNone;
  }
  /// Whether attention can read the page in all layers.
  bool IsInMemory(int32_t page) const {
    return pool_->has_frame(page) && moves_[static_cast<size_t>(page)].direction != Direction::kIn;
  }
  /// Whether attention can read the slot.
  bool IsReadable(Slot slot) const {
    return pool_->IsInMemory(slot) &&
           moves_[static_cast<size_t>(slot.page)].direction != Direction::kIn;
  }
  /// That the page is on, each of which is a user of it.
  int32_t NumMoves(int32_t page) const {
    return (IsMoving(page) ? 1 : 0) + num_slot_reads_[static_cast<size_t>(page)];
  }
  /// Frames that should be free soon, when pages are written.
  int32_t NumComing(absl::Time now) const { return IsExpectant(now) ? num_writes_ : 0; }
  bool busy() const { return num_moving_ > 0; }
  SpillCounts TakeCounts();

  /// Moving pages are counted right, and have frame and block.
  bool Consistent() const;

 private:
  /// A tier from which nothing has come for so long is not waited for.
  static constexpr absl::Duration kPatience = absl::Seconds(5);
  enum class Direction : uint8_t { kNone, kOut, kIn };
  struct Move {
    Direction direction = Direction::kNone;
    bool keep = false;
    bool keeps_slots = false;
  };
  Ended EndSlot(const PageMove& done, absl::Time now);
  void EndWrite(const PageMove& done, const Move& move, absl::Time now);
  void Begin(int32_t page, Direction direction, absl::Time now);
  bool Hangs(absl::Time now) const { return now - latest_progress_ > kPatience; }
  void Report(const char* what, const absl::Status& status, absl::Time now);

  PagePool* pool_;
  PageTier* tier_;
  std::vector<Move> moves_;  // by page
  std::vector<int32_t> num_slot_reads_;
  int32_t num_moving_ = 0;
  int32_t num_writes_ = 0;
  absl::Time next_write_ = absl::InfinitePast();
  absl::Time latest_progress_ = absl::InfinitePast();  // while there are moves
  absl::Time next_report_ = absl::InfinitePast();
  SpillCounts counts_;
};

}  // namespace nsa::engine

#endif  // NSA_ENGINE_PAGE_MOVER_H_
