#ifndef NSA_ENGINE_PAGE_POOL_H_
#define NSA_ENGINE_PAGE_POOL_H_

#include <cstdint>
#include <optional>
#include <vector>

#include "engine/free_pages.h"
#include "engine/slot_places.h"
#include "engine/slot_table.h"

namespace nsa::engine {

/// Which pages of the KV cache are in use, and where their K and V are. A page index names the same
/// page in every layer. Pages are counted: a page returns to the free list when its last user
/// releases it.
///
/// A page in use holds a frame (it is in memory) or a block (it is in the tier below), or both
/// while it moves. There are as many indices as frames and blocks together, so a free frame always
/// finds a free index. Of a page that has a block alone, slots (its K and V in one layer) may be in
/// memory as well; as many slots as there are layers take a frame's place, and make room where a
/// page needs it. Engine thread.
class PagePool {
 public:
  /// `places`: which each slot in memory has one of, where they have places; outlives the pool.
  explicit PagePool(int32_t num_frames, int32_t num_blocks = 0, int32_t num_layers = 1,
                    SlotPlaces* places = nullptr);

  /// A page with one user and a frame, or nothing where no frame is free. `after` and `expected` as
  /// FreePages has them.
  std::optional<int32_t> Allocate(int32_t after = -1, int32_t expected = 1);
  void AddUser(int32_t page);
  /// The last user's release gives back frame and block.
  void Release(int32_t page);

  /// For a page without a frame; false where none is free.
  bool TakeFrame(int32_t page);
  /// For a page that has a block: its content is there.
  void DropFrame(int32_t page);
  /// The same, but its slots stay in memory for as long as there is room.
  void KeepAsSlots(int32_t page);
  /// For a page without a block; false where none is free.
  bool TakeBlock(int32_t page);
  /// For a page that has a frame.
  void DropBlock(int32_t page);
  /// Slots that have lost their memory since the last call, with their page's frame or alone, and
  /// have none. Their places are free.
  std::vector<Slot> TakeVacated();

  /// Memory for a slot of a page without a frame, which is then being read; false where there is
  /// none, and no slot may go.
  bool TakeSlot(Slot slot);
  /// Whether attention can read the slot, as far as frames and slots say.
  bool IsInMemory(Slot slot) const {
    return has_frame(slot.page) || slots_.state(slot) == SlotTable::State::kResident;
  }
  SlotTable& slots() { return slots_; }
  const SlotTable& slots() const { return slots_; }
  /// Slots that could be in memory beside those that must stay.
  int64_t num_free_slots() const {
    return (int64_t{num_frames_} - num_frames_used_) * slots_.num_layers() - slots_.num_locked();
  }

  bool has_frame(int32_t page) const { return has_frame_[static_cast<size_t>(page)]; }
  int32_t block(int32_t page) const { return block_[static_cast<size_t>(page)]; }  // −1: none
  const std::vector<int32_t>& free_blocks() const { return free_blocks_; }
  int32_t num_users(int32_t page) const { return num_users_[static_cast<size_t>(page)]; }

  int32_t num_pages() const { return static_cast<int32_t>(num_users_.size()); }
  int32_t num_used() const { return num_pages() - free_.count(); }
  int32_t num_frames() const { return num_frames_; }
  /// Frames that Allocate could give, one after the other: slots that may go make place.
  int32_t num_free() const { return static_cast<int32_t>(num_free_slots() / slots_.num_layers()); }
  int32_t num_framed() const { return num_frames_used_; }  // pages that have a frame
  /// Frames' worth of memory that pages and slots take.
  int32_t num_active() const {
    const int64_t num_slots = slots_.num_present() + slots_.num_layers() - 1;
    return num_frames_used_ + static_cast<int32_t>(num_slots / slots_.num_layers());
  }
  int32_t num_free_blocks() const { return static_cast<int32_t>(free_blocks_.size()); }
  int32_t num_blocks() const { return num_pages() - num_frames_; }

  /// Every page is either free and without users, frame and block, or has users and one of the two;
  /// each free page and block is listed once, frames are counted right, and slots are those of
  /// pages that have a block alone, and have memory, and a place.
  bool Consistent() const;

 private:
  int64_t SlotOverflow() const;
  bool SlotsConsistent() const;
  bool PlacesConsistent() const;

  int32_t num_frames_;
  int32_t num_frames_used_ = 0;
  std::vector<int32_t> num_users_;  // [num_pages]
  FreePages free_;
  std::vector<bool> has_frame_;  // [num_pages]
  std::vector<int32_t> block_;   // [num_pages]
  std::vector<int32_t> free_blocks_;
  std::vector<int32_t> vacated_;
  SlotTable slots_;     // of no pages where there are no blocks
  SlotPlaces* places_;  // may be null
};

}  // namespace nsa::engine

#endif  // NSA_ENGINE_PAGE_POOL_H_
