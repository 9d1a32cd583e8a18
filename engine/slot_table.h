#ifndef NSA_ENGINE_SLOT_TABLE_H_
#define NSA_ENGINE_SLOT_TABLE_H_

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace nsa::engine {

/// A page's K and V in one layer.
struct Slot {
  int layer = 0;
  int32_t page = 0;
  bool operator==(const Slot&) const = default;
};

/// Which slots of pages that are in the tier below are in memory beside it. They are copies: the
/// page is full and stays as it is, so dropping a slot costs nothing but reading it again. The one
/// that attention took the longest ago goes first. Engine thread.
class SlotTable {
 public:
  enum class State : uint8_t { kAbsent, kReading, kResident };

  SlotTable(int32_t num_pages, int32_t num_layers)
      : num_layers_(num_layers),
        entries_(static_cast<size_t>(num_pages) * static_cast<size_t>(num_layers)) {}

  State state(Slot slot) const { return entry(slot).state; }
  void Set(Slot slot, State state);

  /// Of the slots that attention takes from now on none is dropped until the next call.
  void BeginUse() { ++now_; }
  /// Attention takes it, wherever it is.
  void Touch(Slot slot) { entry(slot).last_use = now_; }
  int64_t last_use(Slot slot) const { return entry(slot).last_use; }
  void Forget(Slot slot) { entry(slot).last_use = 0; }

  /// Pinned slots are not dropped; counted, and wherever the slot is.
  void Pin(Slot slot);
  void Unpin(Slot slot);
  bool is_pinned(Slot slot) const { return entry(slot).num_pins > 0; }
  int64_t num_pins() const { return num_pins_; }

  /// Drops the slot that was taken the longest ago; false where none may go.
  bool DropOldest();
  /// Slots that have lost their memory since the last call; some may have it again.
  std::vector<Slot> TakeVacated() { return std::exchange(vacated_, {}); }

  int64_t num_present() const { return static_cast<int64_t>(present_.size()); }  // or on the way
  int64_t num_locked() const { return num_locked_; }  // of these, that must stay
  int32_t num_layers() const { return num_layers_; }

  /// Counts are right.
  bool Consistent() const;

 private:
  struct Entry {
    int64_t last_use = 0;
    int32_t place = -1;  // in present_
    uint16_t num_pins = 0;
    State state = State::kAbsent;
  };
  /// One of the oldest, as it was when they were looked for.
  struct Candidate {
    int64_t last_use;
    int32_t index;
  };
  static bool IsLocked(const Entry& entry) {
    return entry.state == State::kReading ||
           (entry.state == State::kResident && entry.num_pins > 0);
  }
  size_t IndexOf(Slot slot) const {
    return static_cast<size_t>(slot.page) * static_cast<size_t>(num_layers_) +
           static_cast<size_t>(slot.layer);
  }
  Slot SlotOf(int32_t index) const { return {index % num_layers_, index / num_layers_}; }
  Entry& entry(Slot slot) { return entries_[IndexOf(slot)]; }
  const Entry& entry(Slot slot) const { return entries_[IndexOf(slot)]; }
  bool CanGo(const Entry& entry) const {
    return entry.state == State::kResident && entry.num_pins == 0 && entry.last_use < now_;
  }
  void FindOldest();

  int32_t num_layers_;
  int64_t now_ = 1;
  int64_t num_pins_ = 0;
  int64_t num_locked_ = 0;
  std::vector<Entry> entries_;     // [num_pages, num_layers]
  std::vector<int32_t> present_;   // indices of those that are not absent
  std::vector<Candidate> oldest_;  // the next to go at the back
  std::vector<Slot> vacated_;
};

}  // namespace nsa::engine

#endif  // NSA_ENGINE_SLOT_TABLE_H_
