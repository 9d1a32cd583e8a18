#ifndef NSA_ENGINE_HOST_TIER_H_
#define NSA_ENGINE_HOST_TIER_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "engine/faults.h"
#include "engine/kv_cache.h"
#include "engine/page_tier.h"
#include "kernels/backend.h"
#include "kernels/memory.h"
#include "kernels/side_copies.h"

namespace nsa::engine {

/// Pages of a device in memory of the host, which is taken at once and is gone with the process.
/// Moves are copies beside the operators (kernels::SideCopies); nobody is told of their end, so
/// that the engine asks. Engine thread.
class HostTier final : public PageTier {
 public:
  /// For the blocks of `cache`, which has places and outlives the tier, as `backend` does;
  /// `faults` may be null. ResourceExhausted where the host has no such memory.
  static absl::StatusOr<std::unique_ptr<HostTier>> Create(kernels::Backend& backend,
                                                          const KvCache& cache,
                                                          FaultInjector* faults);

  void Start(const PageMove& move) override;
  std::vector<PageMove> TakeEnded() override;
  void Erase(const std::vector<int32_t>& blocks) override;
  absl::Duration ask_after() const override;

  /// What a block holds. For tests.
  std::span<const std::byte> block(int32_t index) const {
    return {BlockAt(index), static_cast<size_t>(BlockBytes())};
  }

 private:
  HostTier(const KvCache& cache, kernels::Memory blocks,
           std::unique_ptr<kernels::SideCopies> copies, FaultInjector* faults);
  int64_t BlockBytes() const { return cache_.layout().num_layers * cache_.PlaceBytes(); }
  std::byte* BlockAt(int32_t index) const { return blocks_.data() + index * BlockBytes(); }
  /// Layers whose places follow each other are one piece.
  std::vector<kernels::SideCopies::Piece> PiecesOf(const PageMove& move) const;
  bool FailsByFault(const PageMove& move);

  const KvCache& cache_;
  FaultInjector* faults_;
  kernels::Memory blocks_;                        // [num_blocks, num_layers] of PlaceBytes()
  std::unique_ptr<kernels::SideCopies> copies_;   // ends before `blocks_`: it waits
  std::vector<bool> is_written_;                  // by block: it holds something
  absl::flat_hash_map<int64_t, PageMove> moves_;  // under way, by ticket
  int64_t next_ticket_ = 0;
  absl::Time last_start_ = absl::InfinitePast();
  /// Moves that have ended and are held back.
  struct Late {
    absl::Time when;
    PageMove move;
  };
  std::vector<Late> late_;
};

}  // namespace nsa::engine

#endif  // NSA_ENGINE_HOST_TIER_H_
