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

TEST(PagePool, PageFollowsTheOneItContinues) {
  PagePool pool(64);
  EXPECT_EQ(pool.Allocate(), 0);
  EXPECT_EQ(pool.Allocate(0), 1);
  EXPECT_EQ(pool.Allocate(), 16) << "a new run begins in an empty extent";
  EXPECT_EQ(pool.Allocate(1), 2);
  for (int32_t page = 3; page < 16; ++page) ASSERT_EQ(pool.Allocate(page - 1), page);
  EXPECT_EQ(pool.Allocate(15), 32) << "what follows belongs to another";
  EXPECT_EQ(pool.Allocate(63), 48) << "nothing follows the last";
  EXPECT_TRUE(pool.Consistent());
}

TEST(PagePool, RunBeginsWhereItFitsBest) {
  PagePool pool(67);  // the last extent has three pages
  for (int32_t page = 0; page < 67; ++page) pool.Allocate(page - 1);
  EXPECT_EQ(pool.Allocate(), std::nullopt);
  for (const int32_t page : {3, 20, 21, 22, 40, 41, 42, 43, 44, 66}) pool.Release(page);
  EXPECT_EQ(pool.Allocate(-1, 1), 3) << "the fullest extent that holds it, and of these the lowest";
  EXPECT_EQ(pool.Allocate(-1, 2), 20);
  EXPECT_EQ(pool.Allocate(20, 1), 21) << "what follows comes first";
  EXPECT_EQ(pool.Allocate(-1, 100), 40) << "the emptiest, where none holds all";
  EXPECT_EQ(pool.Allocate(-1, 0), 22);
  EXPECT_TRUE(pool.Consistent());
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
