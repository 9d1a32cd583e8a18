#include "engine/kv_cache.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <span>

namespace nsa::engine {
namespace {

/// Slots of one and a half pages of the system, as they are where head_dim is 24.
KvLayout Layout() {
  return {.num_layers = 2,
          .num_kv = 3,
          .num_kv_heads = 1,
          .head_dim_k = 24,
          .head_dim_v = 24,
          .dtype = kernels::DType::kF16,
          .cmp_dtype = kernels::DType::kF16,
          .cmp_rows_per_page = 4};
}

bool Holds(std::span<const std::byte> slot, int value) {
  return std::ranges::all_of(slot, [&](std::byte b) { return b == static_cast<std::byte>(value); });
}

TEST(KvCache, SlotsStandWhereOperatorsLookForThem) {
  const auto backend = kernels::MakeReferenceBackend();
  for (const int32_t num_blocks : {0, 5}) {
    const auto cache = *KvCache::Create(*backend, Layout(), 4, num_blocks);
    EXPECT_EQ(cache->num_pages(), 4 + num_blocks);
    for (int layer = 0; layer < 2; ++layer) {
      for (int branch = 0; branch < 3; ++branch) {
        const kernels::PagedKv view = cache->view(layer, branch);
        for (int32_t page = 0; page < cache->num_pages(); ++page) {
          EXPECT_EQ(cache->slot(layer, branch, page).data(), view.slots + page * view.page_stride);
        }
        EXPECT_EQ(cache->slot(layer, branch, 0).size(), size_t{64 * 24 * 2 * 2});
      }
    }
  }
}

/// A slot leaves memory, in all branches, and takes nothing of its neighbours with it.
TEST(KvCache, DiscardTakesOneSlotAlone) {
  const auto backend = kernels::MakeReferenceBackend();
  const auto cache = *KvCache::Create(*backend, Layout(), 4, 5);
  const auto for_all = [&](const auto& visit) {
    for (int layer = 0; layer < 2; ++layer) {
      for (int branch = 0; branch < 3; ++branch) {
        for (int32_t page = 0; page < 9; ++page) {
          visit(layer, page, cache->slot(layer, branch, page));
        }
      }
    }
  };
  for_all([](int layer, int32_t page, std::span<std::byte> slot) {
    std::ranges::fill(slot, static_cast<std::byte>(10 * layer + page + 1));
  });
  std::byte* const rows = cache->view(0).cmp_slots;
  std::fill_n(rows, cache->view(0).cmp_page_stride * 9, std::byte{77});
  cache->Discard(1, 3);
  for_all([](int layer, int32_t page, std::span<std::byte> slot) {
    const bool is_gone = layer == 1 && page == 3;
    EXPECT_TRUE(Holds(slot, is_gone ? 0 : 10 * layer + page + 1)) << layer << " " << page;
  });
  EXPECT_TRUE(Holds({rows, static_cast<size_t>(cache->view(0).cmp_page_stride * 9)}, 77))
      << "compressed rows stay";
}

TEST(KvCache, CountsFramesAndRowsOfAllPages) {
  const KvLayout layout = Layout();
  EXPECT_EQ(KvCache::NumBytes(layout, 10, 0), 10 * layout.PageBytes());
  const int64_t unit = sysconf(_SC_PAGESIZE);
  const int64_t slot = (layout.SlotBytes() + unit - 1) / unit * unit;
  EXPECT_EQ(KvCache::NumBytes(layout, 10, 7), 10 * 6 * slot + 17 * 2 * layout.CmpSlotBytes());
}

}  // namespace
}  // namespace nsa::engine
