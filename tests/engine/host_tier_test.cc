#include "engine/host_tier.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "engine/kv_cache.h"
#include "tests/engine/passing_backend.h"

namespace nsa::engine {
namespace {

using kernels::SideCopies;

constexpr int kNumLayers = 3;
constexpr int32_t kNumFrames = 4, kNumBlocks = 5;

/// What the tier asked for; copies are done when the test says so.
struct Asked {
  std::vector<size_t> num_pieces;
  std::vector<int64_t> cleared;  // bytes of each call
  int64_t host_bytes = 0;
  int64_t most_host_bytes = int64_t{1} << 30;
  bool has_copies = true;
  bool ends = true;
};

class FakeCopies final : public SideCopies {
 public:
  explicit FakeCopies(Asked* asked) : asked_(*asked) {}
  kernels::Memory AllocateHost(int64_t num_bytes) override {
    asked_.host_bytes = num_bytes;
    return num_bytes > asked_.most_host_bytes ? kernels::Memory()
                                              : kernels::AllocateHost(num_bytes);
  }
  void Start(Direction direction, std::span<const Piece> pieces, int64_t ticket) override {
    asked_.num_pieces.push_back(pieces.size());
    for (const Piece& piece : pieces) {
      const auto size = static_cast<size_t>(piece.num_bytes);
      if (direction == Direction::kToHost) {
        std::memcpy(piece.host, piece.device, size);
      } else {
        std::memcpy(piece.device, piece.host, size);
      }
    }
    tickets_.push_back(ticket);
  }
  void Clear(std::byte* host, int64_t num_bytes) override {
    asked_.cleared.push_back(num_bytes);
    std::memset(host, 0, static_cast<size_t>(num_bytes));
  }
  std::vector<int64_t> TakeEnded() override {
    return asked_.ends ? std::exchange(tickets_, {}) : std::vector<int64_t>();
  }

 private:
  Asked& asked_;
  std::vector<int64_t> tickets_;
};

class CopyingBackend final : public PassingBackend {
 public:
  explicit CopyingBackend(Asked* asked)
      : PassingBackend(kernels::MakeReferenceBackend()), asked_(asked) {}
  std::unique_ptr<SideCopies> MakeSideCopies() override {
    if (!asked_->has_copies) return nullptr;
    return std::make_unique<FakeCopies>(asked_);
  }

 private:
  Asked* asked_;
};

class HostTierTest : public testing::Test {
 protected:
  HostTierTest() {
    const KvLayout layout = {.num_layers = kNumLayers,
                             .num_kv = 2,
                             .num_kv_heads = 1,
                             .head_dim_k = 8,
                             .head_dim_v = 8,
                             .dtype = kernels::DType::kF16,
                             .cmp_dtype = kernels::DType::kF16,
                             .cmp_rows_per_page = 4,
                             .has_places = true};
    cache_ = *KvCache::Create(backend_, layout, kNumFrames, kNumBlocks);
  }

  std::unique_ptr<HostTier> Make(FaultInjector* faults = nullptr) {
    auto tier = HostTier::Create(backend_, *cache_, faults);
    EXPECT_TRUE(tier.ok()) << tier.status();
    return *std::move(tier);
  }
  std::span<std::byte> SlotOf(int layer, int32_t page) const {
    return {cache_->place(cache_->places()->place({layer, page})),
            static_cast<size_t>(cache_->PlaceBytes())};
  }
  void Fill(int32_t page, int value) {
    for (int layer = 0; layer < kNumLayers; ++layer) {
      std::ranges::fill(SlotOf(layer, page), static_cast<std::byte>(value + layer));
    }
  }
  bool Holds(int layer, int32_t page, int value) const {
    return std::ranges::all_of(SlotOf(layer, page),
                               [&](std::byte b) { return b == static_cast<std::byte>(value); });
  }
  static PageMove Move(int32_t page, int32_t block, bool out, int layer = -1) {
    return {.page = page, .block = block, .layer = layer, .out = out, .status = absl::OkStatus()};
  }

  Asked asked_;
  CopyingBackend backend_{&asked_};
  std::unique_ptr<KvCache> cache_;
};

TEST_F(HostTierTest, PagesAndSlotsComeBackWhereverTheyHaveAPlace) {
  const auto tier = Make();
  EXPECT_EQ(asked_.host_bytes, kNumBlocks * cache_->layout().SlotsBytes());
  cache_->places()->TakePage(0);
  Fill(0, 10);
  tier->Start(Move(0, 3, true));
  EXPECT_EQ(asked_.num_pieces.back(), 1u) << "a page that stands in a row";
  std::vector<PageMove> ended = tier->TakeEnded();
  ASSERT_EQ(ended.size(), 1u);
  EXPECT_TRUE(ended[0].out && ended[0].status.ok() && ended[0].block == 3);
  EXPECT_TRUE(tier->TakeEnded().empty());
  for (int layer = 0; layer < kNumLayers; ++layer) cache_->places()->Give({layer, 0});
  for (const int layer : {0, 2})
    cache_->places()->Take({layer, 1});  // what comes back goes elsewhere
  cache_->places()->Take({1, 0});
  EXPECT_NE(cache_->places()->place({1, 0}), 1);
  std::ranges::fill(SlotOf(1, 0), std::byte{99});
  tier->Start(Move(0, 3, false, 1));
  EXPECT_EQ(tier->TakeEnded().at(0).layer, 1);
  EXPECT_TRUE(Holds(1, 0, 11));
  cache_->places()->TakePage(0);
  tier->Start(Move(0, 3, false));
  EXPECT_GT(asked_.num_pieces.back(), 1u);
  EXPECT_EQ(tier->TakeEnded().size(), 1u);
  for (int layer = 0; layer < kNumLayers; ++layer) EXPECT_TRUE(Holds(layer, 0, 10 + layer));
}

TEST_F(HostTierTest, EraseOverwritesWhatWasWritten) {
  const auto tier = Make();
  cache_->places()->TakePage(0);
  Fill(0, 10);
  for (const int32_t block : {4, 0, 1}) tier->Start(Move(0, block, true));
  (void)tier->TakeEnded();
  tier->Erase({3, 1, 2, 0});
  EXPECT_EQ(asked_.cleared, (std::vector<int64_t>{2 * cache_->layout().SlotsBytes()}));
  const auto is_zero = [&](int32_t block) {
    return std::ranges::all_of(tier->block(block), [](std::byte b) { return b == std::byte{0}; });
  };
  EXPECT_TRUE(is_zero(0) && is_zero(1));
  EXPECT_FALSE(is_zero(4));
  tier->Erase({0, 1, 2, 3});
  EXPECT_EQ(asked_.cleared.size(), 1u) << "erased twice";
}

TEST_F(HostTierTest, FaultsFailMovesBeforeTheyBeginOrHoldThemBack) {
  cache_->places()->TakePage(0);
  FaultInjector fails(*FaultInjector::Parse("spill_write=1,spill_read=1"));
  auto tier = Make(&fails);
  tier->Start(Move(0, 0, true));
  tier->Start(Move(0, 1, false, 2));
  EXPECT_TRUE(asked_.num_pieces.empty());
  const std::vector<PageMove> failed = tier->TakeEnded();
  ASSERT_EQ(failed.size(), 2u);
  EXPECT_FALSE(failed[0].status.ok() || failed[1].status.ok());
  EXPECT_EQ(failed[1].layer, 2);
  FaultInjector slow(*FaultInjector::Parse("spill_slow=1,delay_ms=30"));
  tier = Make(&slow);
  const absl::Time begin = absl::Now();
  tier->Start(Move(0, 0, true));
  std::vector<PageMove> ended;
  while (ended.empty()) ended = tier->TakeEnded();
  EXPECT_GE(absl::Now() - begin, absl::Milliseconds(30));
  EXPECT_TRUE(ended[0].status.ok());
}

TEST_F(HostTierTest, WhatEndsLaterIsToldLater) {
  const auto tier = Make();
  cache_->places()->TakePage(0);
  asked_.ends = false;
  tier->Start(Move(0, 0, true));
  EXPECT_TRUE(tier->TakeEnded().empty());
  asked_.ends = true;
  EXPECT_EQ(tier->TakeEnded().size(), 1u);
}

TEST_F(HostTierTest, MissingMemoryIsSaid) {
  asked_.most_host_bytes = 1000;
  auto tier = HostTier::Create(backend_, *cache_, nullptr);
  EXPECT_TRUE(absl::IsResourceExhausted(tier.status())) << tier.status();
  EXPECT_NE(tier.status().message().find("cannot pin"), std::string::npos) << tier.status();
  asked_.has_copies = false;
  tier = HostTier::Create(backend_, *cache_, nullptr);
  EXPECT_TRUE(absl::IsResourceExhausted(tier.status())) << tier.status();
  EXPECT_NE(tier.status().message().find("--kv_cache_gib"), std::string::npos) << tier.status();
}

TEST_F(HostTierTest, TheCacheTellsTheDeviceWhichPlacesChanged) {
  const kernels::PagedKv view = cache_->view(1);
  EXPECT_EQ(view.places[3 * view.places_stride], 3 * kNumLayers + 1);  // its own, at the start
  cache_->places()->TakePage(7);
  cache_->places()->Take({1, 8});
  cache_->WritePlaces(backend_);
  for (const int32_t page : {7, 8}) {
    const int32_t place = cache_->places()->place({1, page});
    EXPECT_EQ(view.places[page * view.places_stride], place);
    EXPECT_EQ(view.slots + place * view.page_stride, cache_->place(place));
  }
  EXPECT_EQ(cache_->view(1, 1).slots, view.slots + cache_->layout().SlotBytes());
}

}  // namespace
}  // namespace nsa::engine
