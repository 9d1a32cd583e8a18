#include "client/load/random.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

namespace nsa::client {
namespace {

constexpr int kDraws = 200'000;

TEST(RandomTest, SeedStreamAndIndexDecideTheNumbers) {
  const auto first = [](uint64_t seed, RandomStream stream, uint64_t index) {
    return Random(seed, stream, index).Uniform();
  };
  const double one = first(5, RandomStream::kLengths, 3);
  EXPECT_EQ(one, first(5, RandomStream::kLengths, 3));
  EXPECT_NE(one, first(6, RandomStream::kLengths, 3));
  EXPECT_NE(one, first(5 + (uint64_t{1} << 32), RandomStream::kLengths, 3));
  EXPECT_NE(one, first(5, RandomStream::kPrompt, 3));
  EXPECT_NE(one, first(5, RandomStream::kLengths, 4));
  EXPECT_NE(one, first(5, RandomStream::kLengths, 3 + (uint64_t{1} << 32)));
}

// A mean of n draws strays by its standard deviation / sqrt(n); five of these never happen.
TEST(RandomTest, MomentsAreThoseOfTheDistributions) {
  Random random(1, RandomStream::kLengths);
  double uniform = 0, exponential = 0, normal = 0, square = 0;
  for (int i = 0; i < kDraws; ++i) {
    const double u = random.Uniform();
    ASSERT_TRUE(u >= 0 && u < 1);
    uniform += u;
    exponential += random.Exponential();
    const double z = random.Normal();
    ASSERT_TRUE(std::isfinite(z));
    normal += z;
    square += z * z;
  }
  const double five_sigma = 5 / std::sqrt(kDraws);
  EXPECT_NEAR(uniform / kDraws, 0.5, five_sigma * std::sqrt(1.0 / 12));
  EXPECT_NEAR(exponential / kDraws, 1, five_sigma);
  EXPECT_NEAR(normal / kDraws, 0, five_sigma);
  EXPECT_NEAR(square / kDraws, 1, five_sigma * std::sqrt(2));
}

TEST(RandomTest, BelowReachesEachNumberEvenly) {
  Random random(2, RandomStream::kPrompt);
  std::vector<int> counts(7);
  for (int i = 0; i < 70'000; ++i) ++counts.at(static_cast<size_t>(random.Below(7)));
  for (const int count : counts) EXPECT_NEAR(count, 10'000, 5 * std::sqrt(10'000.0));
  EXPECT_EQ(random.Below(1), 0);
  for (int i = 0; i < 1000; ++i) EXPECT_LT(random.Below(int64_t{1} << 53), int64_t{1} << 53);
}

}  // namespace
}  // namespace nsa::client
