#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "kernels/cuda/cuda.h"
#include "tests/cuda_host/orders.h"
#include "tests/kernels/attention_cases.h"

namespace nsa::kernels {
namespace {

/// x, weight and what stands in y before, for rows of a few groups.
struct Norm {
  Norm(int64_t rows, int64_t groups, int64_t columns, float scale = 1)
      : num_rows(rows), num_groups(groups), num_columns(columns) {
    x = RandomFloats(rows * stride(), 1);
    for (float& value : x) value *= scale;
    before = RandomFloats(rows * stride(), 2);
    weight = RandomFloats(columns, 3);
  }
  int64_t stride() const { return num_groups * num_columns + 3; }
  RmsNormParams Params(const float* from, float* y, bool accumulate) const {
    return {from,     stride(), weight.data(), 1e-5f,      y,
            stride(), num_rows, num_columns,   num_groups, accumulate};
  }
  std::vector<float> Run(bool accumulate) const {
    std::vector<float> y = before;
    cuda::Stream stream;
    cuda::RmsNorm(stream, Params(x.data(), y.data(), accumulate));
    return y;
  }
  int64_t num_rows, num_groups, num_columns;
  std::vector<float> x, before, weight;
};

TEST(CudaRmsNormTest, IsCloseToDoubleAndNothingElseIsWritten) {
  for (const int64_t columns : {1, 2, 31, 32, 33, 64, 128, 255, 256, 257, 576, 1000, 4096}) {
    for (const float scale : {1.0f, 1e-4f, 1e4f, 0.0f}) {
      const Norm norm(3, 2, columns, scale);
      for (const bool accumulate : {false, true}) {
        const std::vector<float> y = cuda_host::InEveryOrder([&] { return norm.Run(accumulate); });
        std::vector<float> rest = norm.before;
        for (int64_t item = 0; item < 6; ++item) {
          const int64_t first = item / 2 * norm.stride() + item % 2 * columns;
          double sum = 0;
          for (int64_t c = 0; c < columns; ++c) sum += std::pow(double{norm.x[first + c]}, 2);
          const double inverse = 1 / std::sqrt(sum / static_cast<double>(columns) + double{1e-5f});
          for (int64_t c = 0; c < columns; ++c) {
            const double normed = norm.x[first + c] * inverse * norm.weight[c];
            const double base = accumulate ? norm.before[first + c] : 0;
            ASSERT_NEAR(y[first + c], base + normed,
                        2e-6 * (std::fabs(normed) + std::fabs(base)) + 1e-30)
                << columns;
            rest[first + c] = y[first + c];
          }
        }
        EXPECT_TRUE(SameBits(y, rest)) << "wrote between rows";
      }
    }
  }
}

TEST(CudaRmsNormTest, IsRowInvariantAndWorksInPlace) {
  for (const int64_t columns : {17, 64, 576}) {
    const Norm norm(21, 3, columns);
    const std::vector<float> expected = norm.Run(false);
    std::vector<float> alone = norm.before, in_place = norm.x;
    cuda::Stream stream;
    for (int64_t r = 0; r < norm.num_rows; ++r) {
      RmsNormParams p = norm.Params(norm.x.data(), alone.data(), false);
      p.num_rows = 1;
      p.x += r * norm.stride();
      p.y += r * norm.stride();
      cuda::RmsNorm(stream, p);
    }
    EXPECT_TRUE(SameBits(alone, expected)) << columns;
    cuda::RmsNorm(stream, norm.Params(in_place.data(), in_place.data(), false));
    for (int64_t i = 0; i < norm.num_rows * norm.stride(); ++i) {
      const bool is_written = i % norm.stride() < 3 * columns;
      ASSERT_EQ(in_place[i], is_written ? expected[i] : norm.x[i]) << i;
    }
  }
}

TEST(CudaRmsNormTest, EveryBarrierIsMissed) {
  const Norm norm(2, 1, 600);
  cuda_host::ExpectEveryBarrierIsMissed([&] { return norm.Run(false); });
}

TEST(CudaRmsNormTest, NanStaysInItsGroup) {
  for (const int64_t columns : {40, 400}) {
    Norm norm(3, 1, columns);
    norm.x[norm.stride() + 5] = std::numeric_limits<float>::quiet_NaN();
    const std::vector<float> y = norm.Run(false);
    for (int64_t i = 0; i < 3 * norm.stride(); ++i) {
      EXPECT_EQ(std::isnan(y[i]), i / norm.stride() == 1 && i % norm.stride() < columns) << i;
    }
  }
}

}  // namespace
}  // namespace nsa::kernels
