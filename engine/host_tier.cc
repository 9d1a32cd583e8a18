#include "engine/host_tier.h"

#include <algorithm>
#include <utility>

#include "absl/memory/memory.h"
#include "absl/status/status.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "engine/log.h"

namespace nsa::engine {

using kernels::SideCopies;

namespace {

// Copies take microseconds where rows wait for a slot, and to sleep takes longer; where they take
// their time they are asked for now and then.
constexpr absl::Duration kAskAtOnce = absl::Microseconds(500);
constexpr absl::Duration kAskAgain = absl::Microseconds(50);

}  // namespace

absl::StatusOr<std::unique_ptr<HostTier>> HostTier::Create(kernels::Backend& backend,
                                                           const KvCache& cache,
                                                           FaultInjector* faults) {
  CHECK(cache.places() != nullptr && cache.num_blocks() > 0) << "a cache without places";
  std::unique_ptr<SideCopies> copies = backend.MakeSideCopies();
  if (copies == nullptr) {
    return absl::ResourceExhaustedError(
        "--kv_spill_gib: the device has no memory left for copies; lower --kv_cache_gib");
  }
  const int64_t num_bytes = cache.num_blocks() * cache.layout().SlotsBytes();
  kernels::Memory blocks = copies->AllocateHost(num_bytes);
  if (blocks.data() == nullptr) {
    return absl::ResourceExhaustedError(
        absl::StrFormat("--kv_spill_gib: the host cannot pin %d bytes of memory for the pages of "
                        "the device; lower it",
                        num_bytes));
  }
  return absl::WrapUnique(new HostTier(cache, std::move(blocks), std::move(copies), faults));
}

HostTier::HostTier(const KvCache& cache, kernels::Memory blocks, std::unique_ptr<SideCopies> copies,
                   FaultInjector* faults)
    : cache_(cache),
      faults_(faults),
      blocks_(std::move(blocks)),
      copies_(std::move(copies)),
      is_written_(static_cast<size_t>(cache.num_blocks()), false) {}

std::vector<SideCopies::Piece> HostTier::PiecesOf(const PageMove& move) const {
  const int first = std::max(0, move.layer);
  const int end = move.layer < 0 ? cache_.layout().num_layers : move.layer + 1;
  std::vector<SideCopies::Piece> pieces;
  for (int layer = first; layer < end; ++layer) {
    const int32_t place = cache_.places()->place({layer, move.page});
    CHECK(place >= 0) << "page " << move.page << " moves without a place in layer " << layer;
    std::byte* device = cache_.place(place);
    if (!pieces.empty() && pieces.back().device + pieces.back().num_bytes == device) {
      pieces.back().num_bytes += cache_.PlaceBytes();
      continue;
    }
    pieces.push_back({.device = device,
                      .host = BlockAt(move.block) + layer * cache_.PlaceBytes(),
                      .num_bytes = cache_.PlaceBytes()});
  }
  return pieces;
}

bool HostTier::FailsByFault(const PageMove& move) {
  return faults_ != nullptr && faults_->Happens(move.out ? Fault::kSpillWrite : Fault::kSpillRead);
}

void HostTier::Start(const PageMove& move) {
  if (FailsByFault(move)) {
    late_.push_back({absl::InfinitePast(), move});
    late_.back().move.status = absl::InternalError("a copy was made to fail");
    return;
  }
  if (move.out) is_written_[static_cast<size_t>(move.block)] = true;
  const auto direction =
      move.out ? SideCopies::Direction::kToHost : SideCopies::Direction::kToDevice;
  copies_->Start(direction, PiecesOf(move), next_ticket_);
  moves_[next_ticket_++] = move;
  last_start_ = absl::Now();
}

std::vector<PageMove> HostTier::TakeEnded() {
  std::vector<PageMove> ended;
  for (const int64_t ticket : copies_->TakeEnded()) {
    const auto it = moves_.find(ticket);
    CHECK(it != moves_.end()) << "copy " << ticket << " has ended twice";
    if (faults_ != nullptr && faults_->Happens(Fault::kSpillSlow)) {
      late_.push_back({absl::Now() + faults_->delay(), it->second});
    } else {
      ended.push_back(it->second);
    }
    moves_.erase(it);
  }
  if (late_.empty()) return ended;
  const absl::Time now = absl::Now();
  std::erase_if(late_, [&](const Late& late) {
    if (late.when > now) return false;
    ended.push_back(late.move);
    return true;
  });
  return ended;
}

absl::Duration HostTier::ask_after() const {
  return absl::Now() - last_start_ < kAskAtOnce ? absl::ZeroDuration() : kAskAgain;
}

void HostTier::Erase(const std::vector<int32_t>& blocks) {
  std::vector<int32_t> written;
  for (const int32_t block : blocks) {
    if (!is_written_[static_cast<size_t>(block)]) continue;
    is_written_[static_cast<size_t>(block)] = false;
    written.push_back(block);
  }
  std::ranges::sort(written);
  for (size_t begin = 0, end = 0; begin < written.size(); begin = end) {
    do ++end;
    while (end < written.size() && written[end] == written[end - 1] + 1);
    copies_->Clear(BlockAt(written[begin]), static_cast<int64_t>(end - begin) * BlockBytes());
  }
}

}  // namespace nsa::engine
