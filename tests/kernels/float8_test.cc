#include "kernels/float8.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

namespace nsa::kernels {
namespace {

float ValueOf(int bits) { return F8E4M3ToF32({static_cast<uint8_t>(bits)}); }
int BitsOf(float x) { return F32ToF8E4M3(x).bits; }

// The specification's formula, and its table of extremes.
TEST(Float8Test, EveryCodeHasItsValue) {
  for (int bits = 0; bits < 256; ++bits) {
    const int exponent = bits >> 3 & 15, mantissa = bits & 7;
    const double magnitude = exponent == 0 ? std::ldexp(mantissa / 8.0, -6)
                                           : std::ldexp(1 + mantissa / 8.0, exponent - 7);
    const float value = ValueOf(bits);
    if ((bits & 0x7F) == 0x7F) {
      EXPECT_TRUE(std::isnan(value)) << bits;
    } else {
      EXPECT_EQ(std::abs(value), magnitude) << bits;
    }
    EXPECT_EQ(std::signbit(value), bits >= 128) << bits;
    EXPECT_EQ(BitsOf(value), bits) << "there and back";
  }
  EXPECT_EQ(ValueOf(0x7E), 448);
  EXPECT_EQ(ValueOf(0x01), std::ldexp(1.0f, -9));
}

// Each midpoint of two neighbours goes to the even one, and what lies beside it to the nearer.
TEST(Float8Test, RoundsToNearestEven) {
  for (int bits = 0; bits < 0x7E; ++bits) {
    const float low = ValueOf(bits), high = ValueOf(bits + 1), middle = (low + high) / 2;
    const int even = bits % 2 == 0 ? bits : bits + 1;
    for (const int sign : {0, 128}) {
      const auto with_sign = [sign](float x) { return sign == 0 ? x : -x; };
      EXPECT_EQ(BitsOf(with_sign(middle)), even | sign) << bits;
      EXPECT_EQ(BitsOf(with_sign(std::nextafter(middle, low))), bits | sign) << bits;
      EXPECT_EQ(BitsOf(with_sign(std::nextafter(middle, high))), (bits + 1) | sign) << bits;
    }
  }
}

TEST(Float8Test, WhatIsTooLargeIsTheLargestAndWhatIsNotFiniteIsNan) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  for (const float x : {449.0f, 464.0f, 480.0f, 1e6f, std::numeric_limits<float>::max()}) {
    EXPECT_EQ(BitsOf(x), 0x7E) << x;
    EXPECT_EQ(BitsOf(-x), 0xFE) << x;
  }
  EXPECT_EQ(BitsOf(kInfinity), 0x7F);
  EXPECT_EQ(BitsOf(-kInfinity), 0xFF);
  EXPECT_TRUE(std::isnan(ValueOf(BitsOf(std::numeric_limits<float>::quiet_NaN()))));
  EXPECT_EQ(BitsOf(std::numeric_limits<float>::denorm_min()), 0);
}

}  // namespace
}  // namespace nsa::kernels
