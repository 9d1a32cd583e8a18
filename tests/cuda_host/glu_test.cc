#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "kernels/cuda/cuda.h"
#include "kernels/reference/reference.h"
#include "tests/cuda_host/orders.h"
#include "tests/kernels/attention_cases.h"

namespace nsa::kernels {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

std::vector<float> GluOf(GluParams p, int64_t size) {
  std::vector<float> y(size, 7);
  p.y = y.data();
  cuda::Stream stream;
  cuda::Glu(stream, p);
  return y;
}

TEST(CudaGluTest, EqualsTheReference) {
  constexpr int64_t kRows = 5;
  for (const int64_t columns : {1, 31, 64, 576, 1024, 1025, 2600}) {
    const int64_t stride = columns + 2;
    std::vector<float> gate = RandomFloats(kRows * stride, 1), up = RandomFloats(kRows * stride, 2);
    for (float& g : gate) g *= 8;
    for (const GateActivation activation : {GateActivation::kSilu, GateActivation::kGeluTanh}) {
      for (const bool has_up : {true, false}) {
        std::vector<float> expected(kRows * stride, 7);
        GluParams p = {gate.data(), stride,          has_up ? up.data() : nullptr,
                       stride,      expected.data(), stride,
                       kRows,       columns,         activation};
        reference::Glu(p);
        cuda_host::ExpectSameButForMath(
            cuda_host::InEveryOrder([&] { return GluOf(p, kRows * stride); }), expected);
      }
    }
  }
}

TEST(CudaGluTest, MayWriteOverItsInputs) {
  const std::vector<float> gate = RandomFloats(99, 1), up = RandomFloats(99, 2);
  GluParams p = {gate.data(), 99, up.data(), 99, nullptr, 99, 1, 99};
  const std::vector<float> expected = GluOf(p, 99);
  std::vector<float> over_gate = gate, over_up = up;
  cuda::Stream stream;
  p.gate = p.y = over_gate.data();
  cuda::Glu(stream, p);
  EXPECT_EQ(over_gate, expected);
  p.gate = gate.data();
  p.up = p.y = over_up.data();
  cuda::Glu(stream, p);
  EXPECT_EQ(over_up, expected);
}

TEST(CudaGluTest, SpecialValues) {
  const std::vector<float> gate = {kNan, kInfinity, -kInfinity, 1, 1};
  const std::vector<float> up = {1, 2, 1, kNan, -kInfinity};
  const std::vector<float> y = GluOf({gate.data(), 5, up.data(), 5, nullptr, 5, 1, 5}, 5);
  EXPECT_TRUE(std::isnan(y[0]));
  EXPECT_EQ(y[1], kInfinity);
  EXPECT_TRUE(std::isnan(y[2]));  // −inf · 0, as in the formula
  EXPECT_TRUE(std::isnan(y[3]));
  EXPECT_EQ(y[4], -kInfinity);
}

}  // namespace
}  // namespace nsa::kernels
