#include "engine/slot_places.h"

#include <algorithm>
#include <cstdint>

#include "engine/log.h"

namespace nsa::engine {

SlotPlaces::SlotPlaces(int32_t num_pages, int32_t num_frames, int32_t num_layers)
    : num_layers_(num_layers),
      num_free_(int64_t{num_frames} * num_layers),
      places_(static_cast<size_t>(num_pages) * static_cast<size_t>(num_layers), -1),
      is_free_(static_cast<size_t>(num_free_), true),
      frames_(static_cast<size_t>(num_frames), {.num_free = num_layers}),
      is_changed_(static_cast<size_t>(num_pages), false) {
  CHECK(num_free_ <= INT32_MAX) << num_free_ << " places";
  for (int32_t frame = num_frames; frame-- > 0;) List(frame);  // the lowest is given first
}

void SlotPlaces::List(int32_t frame) {
  Frame& listed = frames_[static_cast<size_t>(frame)];
  if (listed.num_free == num_layers_) {
    if (!std::exchange(listed.in_whole, true)) whole_.push_back(frame);
  } else if (listed.num_free > 0) {
    if (!std::exchange(listed.in_partial, true)) partial_.push_back(frame);
  }
}

void SlotPlaces::Set(Slot slot, int32_t place) {
  int32_t& held = places_[IndexOf(slot)];
  const int32_t changed = place >= 0 ? place : held;
  const bool is_freed = place < 0;
  is_free_[static_cast<size_t>(changed)] = is_freed;
  num_free_ += is_freed ? 1 : -1;
  frames_[static_cast<size_t>(changed / num_layers_)].num_free += is_freed ? 1 : -1;
  List(changed / num_layers_);
  held = place;
  if (is_changed_[static_cast<size_t>(slot.page)]) return;
  is_changed_[static_cast<size_t>(slot.page)] = true;
  changed_.push_back(slot.page);
}

int32_t SlotPlaces::LastWhole() {
  while (!whole_.empty() && !IsWhole(whole_.back())) {
    frames_[static_cast<size_t>(whole_.back())].in_whole = false;
    whole_.pop_back();
  }
  return whole_.empty() ? -1 : whole_.back();
}

int32_t SlotPlaces::LastPartial() {
  const auto is_partial = [this](int32_t frame) {
    return frames_[static_cast<size_t>(frame)].num_free > 0 && !IsWhole(frame);
  };
  while (!partial_.empty() && !is_partial(partial_.back())) {
    frames_[static_cast<size_t>(partial_.back())].in_partial = false;
    partial_.pop_back();
  }
  return partial_.empty() ? -1 : partial_.back();
}

int32_t SlotPlaces::FindFree() {
  int32_t frame = LastPartial();
  if (frame < 0) frame = LastWhole();
  if (frame < 0) return -1;
  const auto begin = is_free_.begin() + int64_t{frame} * num_layers_;
  return static_cast<int32_t>(std::find(begin, begin + num_layers_, true) - is_free_.begin());
}

void SlotPlaces::Take(Slot slot) {
  if (place(slot) >= 0) return;
  const int32_t free = FindFree();
  CHECK(free >= 0) << "no place for page " << slot.page;
  Set(slot, free);
}

void SlotPlaces::TakePage(int32_t page) {
  const auto held = of_page(page);
  const bool has_none = std::ranges::all_of(held, [](int32_t place) { return place < 0; });
  const int32_t frame = has_none ? LastWhole() : -1;
  for (int layer = 0; layer < num_layers_; ++layer) {
    if (frame >= 0) {
      Set({layer, page}, frame * num_layers_ + layer);
    } else {
      Take({layer, page});
    }
  }
}

void SlotPlaces::Give(Slot slot) {
  if (place(slot) >= 0) Set(slot, -1);
}

std::vector<int32_t> SlotPlaces::TakeChanged() {
  std::vector<int32_t> pages = std::exchange(changed_, {});
  for (const int32_t page : pages) is_changed_[static_cast<size_t>(page)] = false;
  std::ranges::sort(pages);
  return pages;
}

bool SlotPlaces::Consistent() const {
  std::vector<bool> is_free(is_free_.size(), true);
  for (const int32_t place : places_) {
    if (place < 0) continue;
    if (!is_free[static_cast<size_t>(place)]) return false;
    is_free[static_cast<size_t>(place)] = false;
  }
  return is_free == is_free_ && std::ranges::count(is_free, true) == num_free_;
}

}  // namespace nsa::engine
