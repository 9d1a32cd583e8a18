#include "engine/page_pool.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <utility>

#include "engine/log.h"

namespace nsa::engine {

PagePool::PagePool(int32_t num_frames, int32_t num_blocks, int32_t num_layers, SlotPlaces* places)
    : num_frames_(num_frames),
      num_users_(static_cast<size_t>(num_frames) + static_cast<size_t>(num_blocks), 0),
      free_(num_frames + num_blocks),
      has_frame_(num_users_.size(), false),
      block_(num_users_.size(), -1),
      free_blocks_(static_cast<size_t>(num_blocks)),
      slots_(num_blocks > 0 ? num_frames + num_blocks : 0, num_layers),
      places_(places) {
  std::iota(free_blocks_.rbegin(), free_blocks_.rend(), 0);  // the lowest is given first
}

std::optional<int32_t> PagePool::Allocate(int32_t after, int32_t expected) {
  if (num_free() == 0) return std::nullopt;
  CHECK(free_.count() > 0) << "a frame is free and no page";
  const int32_t page = free_.Take(after, expected);
  num_users_[static_cast<size_t>(page)] = 1;
  CHECK(TakeFrame(page)) << "page " << page;
  return page;
}

bool PagePool::TakeFrame(int32_t page) {
  CHECK(!has_frame(page)) << "page " << page << " has a frame";
  if (num_free() == 0) return false;
  has_frame_[static_cast<size_t>(page)] = true;
  ++num_frames_used_;
  if (num_blocks() == 0) return true;
  for (int layer = 0; layer < slots_.num_layers(); ++layer) {
    slots_.Set({layer, page}, SlotTable::State::kAbsent);  // the frame has their memory
  }
  while (SlotOverflow() > 0) CHECK(slots_.DropOldest()) << "slots do not make the place counted on";
  if (places_ == nullptr) return true;
  (void)TakeVacated();
  places_->TakePage(page);
  return true;
}

/// Slots in memory beyond what frames leave.
int64_t PagePool::SlotOverflow() const {
  return slots_.num_present() - (int64_t{num_frames_} - num_frames_used_) * slots_.num_layers();
}

bool PagePool::TakeSlot(Slot slot) {
  CHECK(!has_frame(slot.page) && block(slot.page) >= 0) << "page " << slot.page;
  CHECK(slots_.state(slot) == SlotTable::State::kAbsent) << "page " << slot.page;
  while (SlotOverflow() >= 0) {
    if (!slots_.DropOldest()) return false;
  }
  slots_.Set(slot, SlotTable::State::kReading);
  if (places_ == nullptr) return true;
  (void)TakeVacated();
  places_->Take(slot);
  return true;
}

void PagePool::KeepAsSlots(int32_t page) {
  CHECK(has_frame(page) && block(page) >= 0) << "page " << page;
  has_frame_[static_cast<size_t>(page)] = false;
  --num_frames_used_;
  for (int layer = 0; layer < slots_.num_layers(); ++layer) {
    slots_.Set({layer, page}, SlotTable::State::kResident);
  }
}

void PagePool::DropFrame(int32_t page) {
  CHECK(has_frame(page)) << "page " << page << " has no frame";
  has_frame_[static_cast<size_t>(page)] = false;
  --num_frames_used_;
  // Without blocks, indices are as many as frames, and memory stays with its index.
  if (num_blocks() > 0) vacated_.push_back(page);
}

bool PagePool::TakeBlock(int32_t page) {
  CHECK(block(page) < 0) << "page " << page << " has a block";
  if (free_blocks_.empty()) return false;
  block_[static_cast<size_t>(page)] = free_blocks_.back();
  free_blocks_.pop_back();
  return true;
}

void PagePool::DropBlock(int32_t page) {
  int32_t& block = block_[static_cast<size_t>(page)];
  CHECK(block >= 0) << "page " << page << " has no block";
  free_blocks_.push_back(std::exchange(block, -1));
}

std::vector<Slot> PagePool::TakeVacated() {
  std::vector<Slot> vacated = slots_.TakeVacated();
  for (const int32_t page : std::exchange(vacated_, {})) {
    for (int layer = 0; layer < slots_.num_layers(); ++layer) vacated.push_back({layer, page});
  }
  // What has got memory again, or is about to, keeps it.
  std::erase_if(vacated, [this](Slot slot) {
    return has_frame(slot.page) || slots_.state(slot) != SlotTable::State::kAbsent;
  });
  for (const Slot slot : vacated) {
    if (places_ != nullptr) places_->Give(slot);
  }
  return vacated;
}

void PagePool::AddUser(int32_t page) {
  CHECK(num_users_.at(static_cast<size_t>(page)) > 0) << "page " << page << " is free";
  ++num_users_[static_cast<size_t>(page)];
}

void PagePool::Release(int32_t page) {
  int32_t& users = num_users_.at(static_cast<size_t>(page));
  CHECK(users > 0) << "page " << page << " is free already";
  if (--users > 0) return;
  if (has_frame(page)) DropFrame(page);
  if (block(page) >= 0) DropBlock(page);
  for (int layer = 0; num_blocks() > 0 && layer < slots_.num_layers(); ++layer) {
    const Slot slot = {layer, page};
    CHECK(slots_.state(slot) != SlotTable::State::kReading) << "page " << page << " is being read";
    slots_.Set(slot, SlotTable::State::kAbsent);
    slots_.Forget(slot);
  }
  free_.Give(page);
}

bool PagePool::SlotsConsistent() const {
  if (!slots_.Consistent() || SlotOverflow() > 0) return false;
  if (num_blocks() == 0) return true;
  for (int32_t page = 0; page < num_pages(); ++page) {
    if (!has_frame(page) && block(page) >= 0) continue;
    for (int layer = 0; layer < slots_.num_layers(); ++layer) {
      if (slots_.state({layer, page}) != SlotTable::State::kAbsent) return false;
    }
  }
  return true;
}

bool PagePool::PlacesConsistent() const {
  if (places_ == nullptr) return true;
  for (int32_t page = 0; page < num_pages(); ++page) {
    for (int layer = 0; layer < slots_.num_layers(); ++layer) {
      const Slot slot = {layer, page};
      const bool in_memory = has_frame(page) || slots_.state(slot) != SlotTable::State::kAbsent;
      if (in_memory && places_->place(slot) < 0) return false;
    }
  }
  return places_->Consistent();
}

bool PagePool::Consistent() const {
  if (!free_.Holds([this](int32_t page) { return num_users(page) == 0; })) return false;
  std::vector<bool> taken(static_cast<size_t>(num_blocks()), false);
  const auto take = [&](int32_t block) {
    const auto index = static_cast<size_t>(block);
    if (index >= taken.size() || taken[index]) return false;
    taken[index] = true;
    return true;
  };
  if (!std::ranges::all_of(free_blocks_, take)) return false;
  for (int32_t page = 0; page < num_pages(); ++page) {
    if (block(page) >= 0 && !take(block(page))) return false;
    if ((num_users(page) > 0) != (has_frame(page) || block(page) >= 0)) return false;
  }
  return std::ranges::find(taken, false) == taken.end() &&
         std::count(has_frame_.begin(), has_frame_.end(), true) == num_frames_used_ &&
         num_frames_used_ <= num_frames_ && SlotsConsistent() && PlacesConsistent();
}

}  // namespace nsa::engine
