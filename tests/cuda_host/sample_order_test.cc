#include "kernels/cuda/sample_order.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

namespace nsa::kernels {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

TEST(CudaSampleOrderTest, MassesAreExp) {
  for (const double step : {1e-4, 0.01173}) {
    int64_t before = cuda::ExpMass(0);
    EXPECT_EQ(before, int64_t{1} << cuda::kMassBits);
    for (double x = 0; x > -40; x -= step) {
      const int64_t mass = cuda::ExpMass(x);
      ASSERT_NEAR(static_cast<double>(mass), std::exp(x) * std::pow(2.0, cuda::kMassBits), 0.51)
          << x;
      ASSERT_LE(mass, before) << x;
      before = mass;
    }
  }
  for (const double x : {-1e3, -1e300, -static_cast<double>(kInfinity)}) {
    EXPECT_EQ(cuda::ExpMass(x), 0);
  }
}

TEST(CudaSampleOrderTest, KeysAreOrderedAsLogits) {
  const std::vector<float> falling = {kInfinity, 3e38f,  2.5f,  1,      1e-40f,    0,
                                      -1e-40f,   -1e-3f, -1.5f, -3e38f, -kInfinity};
  for (size_t i = 0; i < falling.size(); ++i) {
    EXPECT_EQ(cuda::LogitOfKey(cuda::KeyOf(falling[i])), falling[i]);
    if (i > 0) {
      EXPECT_LT(cuda::KeyOf(falling[i - 1]), cuda::KeyOf(falling[i]));
    }
  }
  EXPECT_EQ(cuda::KeyOf(-0.0f), cuda::KeyOf(0.0f));
}

}  // namespace
}  // namespace nsa::kernels
