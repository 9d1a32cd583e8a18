#ifndef NSA_TESTS_ENGINE_FAKE_TIER_H_
#define NSA_TESTS_ENGINE_FAKE_TIER_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <set>
#include <utility>
#include <vector>

#include "engine/page_tier.h"
#include "kernels/tensor.h"

namespace nsa::engine {

/// What a page holds, one value a token.
using PageContent = std::array<uint64_t, kernels::kPageSize>;

/// A tier whose moves end when the test says so, and as the test says. Content really moves.
class FakeTier final : public PageTier {
 public:
  explicit FakeTier(std::vector<PageContent>* memory) : memory_(memory) {}

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
    PageContent& page = memory_->at(static_cast<size_t>(move.page));
    if (move.out && status.ok()) blocks_[move.block] = page;
    if (!move.out) page = status.ok() ? blocks_.at(move.block) : PageContent{};
    ended_.push_back(move);
  }
  void EndAll(const absl::Status& status = absl::OkStatus()) {
    while (!moves.empty()) End(0, status);
  }
  size_t num_blocks_written() const { return blocks_.size(); }

  std::vector<PageMove> moves;  // under way

 private:
  std::vector<PageContent>* memory_;
  std::map<int32_t, PageContent> blocks_;
  std::vector<PageMove> ended_;
};

}  // namespace nsa::engine

#endif  // NSA_TESTS_ENGINE_FAKE_TIER_H_
