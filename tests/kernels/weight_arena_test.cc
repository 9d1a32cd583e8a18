#include "kernels/cpu/weight_arena.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

namespace nsa::kernels::cpu {
namespace {

TEST(WeightArena, GivesZerosOfAnySizeThatOutliveIt) {
  std::vector<std::pair<std::shared_ptr<std::byte>, size_t>> taken;
  {
    WeightArena arena;
    for (const size_t size : {size_t{1}, size_t{64}, size_t{65}, size_t{31} << 20, size_t{3} << 20,
                              size_t{40} << 20, size_t{7}}) {
      taken.emplace_back(arena.Allocate(size), size);
      std::byte* data = taken.back().first.get();
      EXPECT_EQ(reinterpret_cast<uintptr_t>(data) % 64, 0u);
      EXPECT_TRUE(std::all_of(data, data + size, [](std::byte b) { return b == std::byte{0}; }));
      std::fill_n(data, size, static_cast<std::byte>(taken.size()));
    }
  }
  for (size_t i = 0; i < taken.size(); ++i) {
    const auto& [data, size] = taken[i];
    EXPECT_TRUE(std::all_of(data.get(), data.get() + size, [i](std::byte b) {
      return b == static_cast<std::byte>(i + 1);
    })) << i;
  }
}

}  // namespace
}  // namespace nsa::kernels::cpu
