#include "engine/slot_table.h"

#include <algorithm>

#include "engine/log.h"

namespace nsa::engine {

void SlotTable::Set(Slot slot, State state) {
  const size_t index = IndexOf(slot);
  Entry& changed = entries_[index];
  num_locked_ -= IsLocked(changed) ? 1 : 0;
  if (changed.state == State::kAbsent && state != State::kAbsent) {
    changed.place = static_cast<int32_t>(present_.size());
    present_.push_back(static_cast<int32_t>(index));
  } else if (changed.state != State::kAbsent && state == State::kAbsent) {
    const auto place = static_cast<size_t>(changed.place);
    present_[place] = present_.back();
    entries_[static_cast<size_t>(present_[place])].place = changed.place;
    present_.pop_back();
    changed.place = -1;
    vacated_.push_back(slot);
  }
  changed.state = state;
  num_locked_ += IsLocked(changed) ? 1 : 0;
}

void SlotTable::Pin(Slot slot) {
  Entry& pinned = entry(slot);
  num_locked_ -= IsLocked(pinned) ? 1 : 0;
  ++pinned.num_pins;
  ++num_pins_;
  num_locked_ += IsLocked(pinned) ? 1 : 0;
}

void SlotTable::Unpin(Slot slot) {
  Entry& pinned = entry(slot);
  CHECK(pinned.num_pins > 0) << "page " << slot.page << " is not pinned in layer " << slot.layer;
  num_locked_ -= IsLocked(pinned) ? 1 : 0;
  --pinned.num_pins;
  --num_pins_;
  num_locked_ += IsLocked(pinned) ? 1 : 0;
}

/// A part of all at a time, so that looking at all is paid for by many.
void SlotTable::FindOldest() {
  for (const int32_t index : present_) {
    const Entry& candidate = entries_[static_cast<size_t>(index)];
    if (CanGo(candidate)) oldest_.push_back({candidate.last_use, index});
  }
  const auto newest_first = [](const Candidate& a, const Candidate& b) {
    return a.last_use != b.last_use ? a.last_use > b.last_use : a.index > b.index;
  };
  const size_t num_wanted = std::max<size_t>(64, oldest_.size() / 8);
  if (oldest_.size() > num_wanted) {
    const auto first = oldest_.end() - static_cast<std::ptrdiff_t>(num_wanted);
    std::ranges::nth_element(oldest_, first, newest_first);
    oldest_.erase(oldest_.begin(), first);
  }
  std::ranges::sort(oldest_, newest_first);
}

bool SlotTable::DropOldest() {
  for (const bool again : {true, false}) {
    while (!oldest_.empty()) {
      const Candidate candidate = oldest_.back();
      oldest_.pop_back();
      const Entry& oldest = entries_[static_cast<size_t>(candidate.index)];
      if (!CanGo(oldest) || oldest.last_use != candidate.last_use) continue;
      Set(SlotOf(candidate.index), State::kAbsent);
      return true;
    }
    if (again) FindOldest();
  }
  return false;
}

bool SlotTable::Consistent() const {
  int64_t num_present = 0, num_locked = 0, num_pins = 0;
  for (size_t i = 0; i < entries_.size(); ++i) {
    const Entry& checked = entries_[i];
    num_pins += checked.num_pins;
    num_locked += IsLocked(checked) ? 1 : 0;
    if ((checked.state == State::kAbsent) != (checked.place < 0)) return false;
    if (checked.state == State::kAbsent) continue;
    ++num_present;
    const auto place = static_cast<size_t>(checked.place);
    if (place >= present_.size() || present_[place] != static_cast<int32_t>(i)) return false;
  }
  return num_present == this->num_present() && num_locked == num_locked_ && num_pins == num_pins_;
}

}  // namespace nsa::engine
