#ifndef NSA_TESTS_ENGINE_FAKE_TIER_H_
#define NSA_TESTS_ENGINE_FAKE_TIER_H_

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <set>
#include <utility>
#include <vector>

#include "engine/page_tier.h"
#include "engine/slot_places.h"
#include "kernels/tensor.h"

namespace nsa::engine {

/// What a page holds in a layer, one value a token.
using PageContent = std::array<uint64_t, kernels::kPageSize>;

/// Where in memory a slot is: [num_pages, num_layers], or at its place.
inline size_t IndexOfSlot(Slot slot, int num_layers, const SlotPlaces* places) {
  return static_cast<size_t>(places != nullptr ? places->place(slot)
                                               : slot.page * num_layers + slot.layer);
}

/// A tier whose moves end when the test says so, and as the test says. Content really moves.
class FakeTier final : public PageTier {
 public:
  /// `memory` by IndexOfSlot; `places` may be null.
  explicit FakeTier(std::vector<PageContent>* memory, int num_layers = 1,
                    const SlotPlaces* places = nullptr)
      : memory_(memory), num_layers_(num_layers), places_(places) {}

  void Start(const PageMove& move) override { moves.push_back(move); }
  std::vector<PageMove> TakeEnded() override { return std::exchange(ended_, {}); }
  void Erase(const std::vector<int32_t>& blocks) override {
    for (const int32_t block : blocks) blocks_.erase(block);
  }

  /// Ends the move at `index` of `moves`.
  void End(size_t index, const absl::Status& status = absl::OkStatus()) {
    PageMove move = moves[index];
    moves.erase(moves.begin() + static_cast<std::ptrdiff_t>(index));
    move.status = status;
    const int first = std::max(0, move.layer);
    const int end = move.layer < 0 ? num_layers_ : move.layer + 1;
    for (int layer = first; layer < end; ++layer) {
      PageContent& slot = memory_->at(IndexOfSlot({layer, move.page}, num_layers_, places_));
      if (move.out) {
        if (!status.ok()) continue;
        blocks_[move.block].resize(static_cast<size_t>(num_layers_));
        blocks_[move.block][static_cast<size_t>(layer)] = slot;
      } else {
        slot = status.ok() ? blocks_.at(move.block)[static_cast<size_t>(layer)] : PageContent{};
      }
    }
    ended_.push_back(move);
  }
  void EndAll(const absl::Status& status = absl::OkStatus()) {
    while (!moves.empty()) End(0, status);
  }
  size_t num_blocks_written() const { return blocks_.size(); }

  std::vector<PageMove> moves;  // under way

 private:
  std::vector<PageContent>* memory_;
  int num_layers_;
  const SlotPlaces* places_;
  std::map<int32_t, std::vector<PageContent>> blocks_;  // [num_layers]
  std::vector<PageMove> ended_;
};

}  // namespace nsa::engine

#endif  // NSA_TESTS_ENGINE_FAKE_TIER_H_
