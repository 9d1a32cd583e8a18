#include "engine/free_pages.h"

#include <gtest/gtest.h>

#include <array>
#include <cstddef>
#include <random>

namespace nsa::engine {
namespace {

constexpr int32_t kMany = 1000;

TEST(FreePages, PageFollowsTheOneItContinues) {
  FreePages pages(64);
  EXPECT_EQ(pages.Take(-1, kMany), 0);
  EXPECT_EQ(pages.Take(0, kMany), 1);
  EXPECT_EQ(pages.Take(-1, kMany), 16) << "a new run begins in an empty extent";
  EXPECT_EQ(pages.Take(1, kMany), 2);
  for (int32_t page = 3; page < 16; ++page) ASSERT_EQ(pages.Take(page - 1, kMany), page);
  EXPECT_EQ(pages.Take(15, kMany), 32) << "what follows belongs to another";
  EXPECT_EQ(pages.Take(63, kMany), 48) << "nothing follows the last";
}

TEST(FreePages, RunBeginsWhereItFitsBest) {
  FreePages pages(67);  // the last extent has three pages
  for (int32_t page = 0; page < 67; ++page) pages.Take(page - 1, kMany);
  EXPECT_EQ(pages.count(), 0);
  for (const int32_t page : {3, 20, 21, 22, 40, 41, 42, 43, 44, 66}) pages.Give(page);
  EXPECT_EQ(pages.Take(-1, 1), 3) << "the fullest extent that holds it, and of these the lowest";
  EXPECT_EQ(pages.Take(-1, 2), 20);
  EXPECT_EQ(pages.Take(20, 1), 21) << "what follows comes first";
  EXPECT_EQ(pages.Take(-1, kMany), 40) << "the emptiest, where none holds all";
  EXPECT_EQ(pages.Take(-1, 0), 22);
}

TEST(FreePagesDeathTest, TwiceGivenOrNoneLeftEndsTheProcess) {
  FreePages pages(1);
  EXPECT_DEATH(pages.Give(0), "free already");
  pages.Take(-1, 1);
  EXPECT_DEATH(pages.Take(-1, 1), "no page is free");
}

TEST(FreePages, RandomUseLosesNone) {
  std::mt19937 random(3);
  constexpr int32_t kPages = 1100;  // more than 64 extents
  FreePages pages(kPages);
  std::array<bool, kPages> free;
  free.fill(true);
  const auto is_free = [&](int32_t page) { return free[static_cast<size_t>(page)]; };
  for (int step = 0; step < 20000; ++step) {
    const auto page = static_cast<int32_t>(random() % kPages);
    if (random() % 2 == 0 && pages.count() > 0) {
      const int32_t taken = pages.Take(static_cast<int32_t>(random() % (kPages + 1)) - 1,
                                       static_cast<int32_t>(random() % 20));
      ASSERT_TRUE(free[static_cast<size_t>(taken)]);
      free[static_cast<size_t>(taken)] = false;
    } else if (!free[static_cast<size_t>(page)]) {
      pages.Give(page);
      free[static_cast<size_t>(page)] = true;
    }
    if (step % 100 == 0) {
      ASSERT_TRUE(pages.Holds(is_free)) << step;
    }
  }
  free[7] = !free[7];
  EXPECT_FALSE(pages.Holds(is_free));
}

}  // namespace
}  // namespace nsa::engine
