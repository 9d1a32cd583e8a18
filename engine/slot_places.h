#ifndef NSA_ENGINE_SLOT_PLACES_H_
#define NSA_ENGINE_SLOT_PLACES_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "engine/slot_table.h"

namespace nsa::engine {

/// Where slots stand on a device whose memory cannot come and go under one address: each slot in
/// memory holds one of `num_frames` · `num_layers` places, whatever its page and layer. The slots
/// of a page stand one behind the other where a whole frame is free, so that they move as one
/// piece. Engine thread.
class SlotPlaces {
 public:
  SlotPlaces(int32_t num_pages, int32_t num_frames, int32_t num_layers);

  /// −1: it has none.
  int32_t place(Slot slot) const { return places_[IndexOf(slot)]; }
  /// The slot gets a place, those of a page in all layers each one; who has one keeps it. There
  /// must be enough.
  void Take(Slot slot);
  void TakePage(int32_t page);
  /// Gives the place back, where it has one.
  void Give(Slot slot);

  /// Of a page, [num_layers]; and pages whose places have changed since the last call, rising.
  std::span<const int32_t> of_page(int32_t page) const {
    return std::span(places_).subspan(IndexOf({0, page}), static_cast<size_t>(num_layers_));
  }
  std::vector<int32_t> TakeChanged();

  int32_t num_pages() const { return static_cast<int32_t>(is_changed_.size()); }
  int32_t num_layers() const { return num_layers_; }
  int64_t num_places() const { return static_cast<int64_t>(is_free_.size()); }
  int64_t num_free() const { return num_free_; }
  /// No place is held twice; free ones are counted right.
  bool Consistent() const;

 private:
  size_t IndexOf(Slot slot) const {
    return static_cast<size_t>(slot.page) * static_cast<size_t>(num_layers_) +
           static_cast<size_t>(slot.layer);
  }
  struct Frame {  // num_layers places, one behind the other
    int32_t num_free = 0;
    bool in_whole = false;
    bool in_partial = false;
  };
  void Set(Slot slot, int32_t place);
  void List(int32_t frame);
  bool IsWhole(int32_t frame) const {
    return frames_[static_cast<size_t>(frame)].num_free == num_layers_;
  }
  /// The last frame of the list that is as the list says; −1: none.
  int32_t LastWhole();
  int32_t LastPartial();
  /// A free place of a frame that is not free as a whole, where there is such a frame.
  int32_t FindFree();

  int32_t num_layers_;
  int64_t num_free_;
  std::vector<int32_t> places_;   // [num_pages, num_layers]
  std::vector<bool> is_free_;     // by place
  std::vector<Frame> frames_;     // [num_frames]
  std::vector<int32_t> whole_;    // those that are free, and others that once were
  std::vector<int32_t> partial_;  // likewise, those of which some places are free
  std::vector<bool> is_changed_;  // by page
  std::vector<int32_t> changed_;
};

}  // namespace nsa::engine

#endif  // NSA_ENGINE_SLOT_PLACES_H_
