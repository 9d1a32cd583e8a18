#include "engine/page_pool.h"

#include <gtest/gtest.h>

#include <random>
#include <vector>

namespace nsa::engine {
namespace {

TEST(PagePool, GivesEachPageOnceAndThenNothing) {
  PagePool pool(3);
  std::vector<int32_t> pages;
  for (int i = 0; i < 3; ++i) pages.push_back(pool.Allocate().value());
  EXPECT_EQ(pages, (std::vector<int32_t>{0, 1, 2}));
  EXPECT_EQ(pool.Allocate(), std::nullopt);
  EXPECT_EQ(pool.num_free(), 0);
  EXPECT_TRUE(pool.Consistent());
}

TEST(PagePool, PagesOfASequenceFollowEachOther) {
  PagePool pool(64);
  const int32_t first = pool.Allocate(-1, 3).value();
  const int32_t other = pool.Allocate(-1, 30).value();
  EXPECT_NE(other, first + 1);
  EXPECT_EQ(pool.Allocate(first, 2), first + 1);
  EXPECT_EQ(pool.Allocate(other, 29), other + 1);
}

TEST(PagePool, PageIsFreeOnlyAfterItsLastUser) {
  PagePool pool(1);
  const int32_t page = pool.Allocate().value();
  pool.AddUser(page);
  pool.Release(page);
  EXPECT_EQ(pool.num_free(), 0);
  pool.Release(page);
  EXPECT_EQ(pool.num_free(), 1);
  EXPECT_TRUE(pool.Consistent());
}

TEST(PagePoolDeathTest, DoubleReleaseAndUseOfFreePageEndTheProcess) {
  PagePool pool(1);
  EXPECT_DEATH(pool.Release(0), "free already");
  EXPECT_DEATH(pool.AddUser(0), "is free");
}

TEST(PagePool, RandomUseConservesPages) {
  std::mt19937 random(7);
  PagePool pool(50);
  std::vector<int32_t> held;
  for (int step = 0; step < 20000; ++step) {
    const uint32_t action = random() % 3;
    if (action == 0) {
      const int32_t num_free = pool.num_free();
      const auto page = pool.Allocate(static_cast<int32_t>(random() % 51) - 1,
                                      static_cast<int32_t>(random() % 20));
      ASSERT_EQ(page.has_value(), num_free > 0);
      if (page.has_value()) held.push_back(*page);
    } else if (!held.empty()) {
      const size_t i = random() % held.size();
      if (action == 1 && held.size() < 200) {
        pool.AddUser(held[i]);
        held.push_back(held[i]);
      } else {
        pool.Release(held[i]);
        held.erase(held.begin() + static_cast<std::ptrdiff_t>(i));
      }
    }
    if (step % 100 == 0) {
      ASSERT_TRUE(pool.Consistent());
    }
  }
  for (const int32_t page : held) pool.Release(page);
  EXPECT_EQ(pool.num_free(), 50);
}

}  // namespace
}  // namespace nsa::engine
