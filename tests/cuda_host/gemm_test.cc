#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <span>
#include <vector>

#include "kernels/cuda/cuda.h"
#include "kernels/reference/reference.h"
#include "tests/cuda_host/orders.h"
#include "tests/kernels/gemm_cases.h"

namespace nsa::kernels {
namespace {

/// W in "device" memory.
class DeviceMatrix {
 public:
  explicit DeviceMatrix(std::span<const WeightMatrix> sources) {
    cuda::PackedLayout layout = cuda::PlanPacking(sources);
    data_.resize(static_cast<size_t>(layout.num_bytes) / sizeof(cuda::U32x4));
    auto* data = reinterpret_cast<std::byte*>(data_.data());
    cuda::PackBlocks(layout, sources, 0, layout.num_blocks, data);
    view_ = cuda::ViewOf(layout, data);
  }
  explicit DeviceMatrix(const Weights& w) : DeviceMatrix(std::span(&w.matrix, 1)) {}

  const cuda::MatrixView& view() const { return view_; }

 private:
  std::vector<cuda::U32x4> data_;
  cuda::MatrixView view_;
};

/// With room for `max_rows` rows of x in the workspace; −1: for all.
std::vector<float> RunCuda(const DeviceMatrix& w, const Call& call, const std::vector<float>& x,
                           int64_t max_rows = -1) {
  const cuda::PackedLayout& layout = w.view().layout;
  std::vector<float> y;
  const GemmParams params = MakeParams(layout.num_rows, layout.num_columns, call, x, y);
  const int64_t room = cuda::GemmWorkspaceFloats(layout, max_rows < 0 ? call.num_rows : max_rows);
  // NaNs, which would spoil what reads behind the rows.
  std::vector<cuda::U32x4> workspace(static_cast<size_t>(room) / 4,
                                     cuda::U32x4{{~0u, ~0u, ~0u, ~0u}});
  cuda::Stream stream;
  cuda::Gemm(stream, params, w.view(), {reinterpret_cast<float*>(workspace.data()), room});
  return y;
}

void ExpectSameBits(const std::vector<float>& actual, const std::vector<float>& expected) {
  ASSERT_EQ(actual.size(), expected.size());
  for (size_t i = 0; i < actual.size(); ++i) {
    ASSERT_EQ(std::bit_cast<uint32_t>(actual[i]), std::bit_cast<uint32_t>(expected[i]))
        << i << ": " << actual[i] << " " << expected[i];
  }
}

TEST(CudaGemmTest, QuantisedTypesEqualTheReferenceBitForBit) {
  std::mt19937 rng(1);
  for (const WeightType type : kQuantised) {
    SCOPED_TRACE(FindWeightBlock(type)->name);
    for (const int64_t num_columns : {32, 96, 256, 576, 768}) {
      if (num_columns % FindWeightBlock(type)->num_elements != 0) continue;
      for (const int64_t num_outputs : {1, 16, 33, 100}) {
        if ((num_columns > 256) != (num_outputs == 100)) continue;
        const Weights w(rng, type, num_outputs, num_columns);
        const DeviceMatrix packed(w);
        const auto expected = reference::Pack({&w.matrix, 1});
        for (const int64_t num_rows : {1, 2, 3, 7, 9, 33}) {
          SCOPED_TRACE(testing::Message() << num_columns << " " << num_outputs << " " << num_rows);
          const std::vector<float> x = RandomFloats(rng, num_rows * num_columns);
          const Call call{.num_rows = num_rows};
          ExpectSameBits(RunCuda(packed, call, x), RunReference(*expected, call, x));
        }
      }
    }
  }
}

TEST(CudaGemmTest, EveryOrderOfThreadsGivesTheSame) {
  std::mt19937 rng(2);
  for (const WeightType type : {WeightType::kQ4_1, WeightType::kQ8_0, WeightType::kQ5_K,
                                WeightType::kQ6_K, WeightType::kF32, WeightType::kBF16}) {
    SCOPED_TRACE(FindWeightBlock(type)->name);
    const Weights w(rng, type, 70, 256);
    const DeviceMatrix packed(w);
    for (const int64_t num_rows : {1, 10, 37}) {
      const std::vector<float> x = RandomFloats(rng, num_rows * 256);
      cuda_host::InEveryOrder([&] { return RunCuda(packed, {.num_rows = num_rows}, x); });
    }
  }
}

/// Columns such that the kernel goes round more often than once.
int64_t ManyColumns(WeightType type, int64_t num_rows) {
  if (num_rows > 32) return FindWeightBlock(type)->num_elements == 1 ? 200 : 512;
  if (FindWeightBlock(type)->num_elements == 1) return 8 * 512 + 33;
  return type == WeightType::kQ6_K ? 1280 : 2304;
}

TEST(CudaGemmTest, EveryBarrierIsMissed) {
  std::mt19937 rng(3);
  for (const WeightType type :
       {WeightType::kQ4_K, WeightType::kQ8_0, WeightType::kQ6_K, WeightType::kBF16}) {
    SCOPED_TRACE(FindWeightBlock(type)->name);
    for (const int64_t num_rows : {7, 33}) {
      const int64_t columns = ManyColumns(type, num_rows);
      const Weights w(rng, type, 33, columns);
      const DeviceMatrix packed(w);
      const auto expected = reference::Pack({&w.matrix, 1});
      const std::vector<float> x = RandomFloats(rng, num_rows * columns);
      const Call call{.num_rows = num_rows};
      cuda_host::ExpectEveryBarrierIsMissed([&] { return RunCuda(packed, call, x); });
      if (type != WeightType::kBF16) {
        ExpectSameBits(RunCuda(packed, call, x), RunReference(*expected, call, x));
      }
    }
  }
}

/// Of outputs and rows, Σ w·x in double, and Σ |w·x|.
struct Sums {
  double sum = 0;
  double magnitude = 0;
};
Sums ExactSum(const Weights& w, int64_t output, const float* x) {
  const int64_t columns = w.matrix.num_columns;
  std::vector<float> row(static_cast<size_t>(columns));
  DequantizeRow(w.matrix.type, w.bytes.data() + output * RowBytes(w.matrix.type, columns), columns,
                row.data());
  Sums sums;
  for (size_t k = 0; k < row.size(); ++k) {
    sums.sum += double{row[k]} * double{x[k]};
    sums.magnitude += std::fabs(double{row[k]} * double{x[k]});
  }
  return sums;
}

// x and W are split without a rest, but for products below 2⁻²⁴; what rounds is float32 addition of
// up to 3·512 products a chunk, whose error, were they all of one sign, would grow to some 1e-5 and
// stays two digits below that where signs are mixed.
TEST(CudaGemmTest, DenseTypesAreCloseToTheExactProduct) {
  std::mt19937 rng(4);
  for (const WeightType type : kDense) {
    SCOPED_TRACE(FindWeightBlock(type)->name);
    for (const int64_t columns : {1, 7, 64, 129, 1100}) {
      for (const int64_t outputs : {1, 45}) {
        Weights w(rng, type, outputs, columns);
        if (type == WeightType::kF32) {  // all of its bits
          const std::vector<float> weights = RandomFloats(rng, outputs * columns);
          std::memcpy(w.bytes.data(), weights.data(), w.bytes.size());
        }
        const DeviceMatrix packed(w);
        for (const int64_t rows : {1, 9, 34}) {
          const std::vector<float> x = RandomFloats(rng, rows * columns);
          const std::vector<float> y = RunCuda(packed, {.num_rows = rows}, x);
          for (int64_t i = 0; i < rows * outputs; ++i) {
            const Sums exact = ExactSum(w, i % outputs, x.data() + i / outputs * columns);
            ASSERT_NEAR(y[static_cast<size_t>(i)], exact.sum, 5e-7 * exact.magnitude)
                << columns << " columns, " << rows << " rows, " << i;
          }
          EXPECT_EQ(y.back(), kUntouched);
        }
      }
    }
  }
}

// The property that the server stands on, across the kernels for few and for many rows.
TEST(CudaGemmTest, RowInvariance) {
  std::mt19937 rng(5);
  constexpr int64_t kMaxRows = 40;
  for (const WeightType type : {WeightType::kQ4_1, WeightType::kQ4_0, WeightType::kQ6_K,
                                WeightType::kF32, WeightType::kF16, WeightType::kBF16}) {
    SCOPED_TRACE(FindWeightBlock(type)->name);
    const bool is_dense = FindWeightBlock(type)->num_elements == 1;
    const int64_t columns = is_dense ? 600 : 256;
    const Weights w(rng, type, 19, columns);
    const DeviceMatrix packed(w);
    const std::vector<float> x = RandomFloats(rng, kMaxRows * columns);
    std::vector<float> expected;
    for (int64_t r = 0; r < kMaxRows; ++r) {
      const std::vector<float> row(x.begin() + r * columns, x.begin() + (r + 1) * columns);
      const std::vector<float> y = RunCuda(packed, {}, row);
      expected.insert(expected.end(), y.begin(), y.end() - 1);
    }
    const bool is_every = type == WeightType::kQ4_1 || type == WeightType::kBF16;
    for (int64_t num_rows = 1; num_rows <= kMaxRows; num_rows += is_every ? 1 : 13) {
      const std::vector<float> y = RunCuda(packed, {.num_rows = num_rows}, x);
      ASSERT_EQ(0, std::memcmp(y.data(), expected.data(), (y.size() - 1) * sizeof(float)))
          << num_rows << " rows";
    }
  }
}

TEST(CudaGemmTest, PartsOfDifferentTypesAndOddSizes) {
  std::mt19937 rng(6);
  constexpr int64_t kColumns = 256;
  std::vector<Weights> weights;
  weights.reserve(8);
  std::vector<WeightMatrix> sources;
  const int64_t sizes[] = {17, 1, 64, 0, 31, 5, 40, 9};
  const WeightType types[] = {WeightType::kQ4_1, WeightType::kQ8_0, WeightType::kF16,
                              WeightType::kQ4_0, WeightType::kQ6_K, WeightType::kQ5_0,
                              WeightType::kQ4_K, WeightType::kQ4_K};
  for (int i = 0; i < 8; ++i) {
    sources.push_back(weights.emplace_back(rng, types[i], sizes[i], kColumns).matrix);
  }
  const DeviceMatrix packed(sources);
  const auto expected_packed = reference::Pack(sources);
  EXPECT_EQ(packed.view().layout.num_rows, expected_packed->num_rows());
  for (const int64_t num_rows : {1, 6, 50}) {
    const std::vector<float> x = RandomFloats(rng, num_rows * kColumns);
    const Call call{.num_rows = num_rows};
    const std::vector<float> y = RunCuda(packed, call, x);
    const std::vector<float> expected = RunReference(*expected_packed, call, x);
    const int64_t outputs = expected_packed->num_rows();
    for (int64_t i = 0; i < num_rows * outputs; ++i) {
      const auto at = static_cast<size_t>(i);
      const bool is_dense = i % outputs >= 18 && i % outputs < 18 + 64;
      ASSERT_NEAR(y[at], expected[at], is_dense ? 1e-6 : 0) << i;
    }
  }
}

TEST(CudaGemmTest, BiasAccumulateAndStrides) {
  std::mt19937 rng(7);
  constexpr int64_t kOutputs = 50, kColumns = 64;
  const Weights w(rng, WeightType::kQ4_1, kOutputs, kColumns);
  const DeviceMatrix packed(w);
  const auto expected_packed = reference::Pack({&w.matrix, 1});
  const std::vector<float> bias = RandomFloats(rng, kOutputs);
  for (const int64_t num_rows : {13, 35}) {
    const std::vector<float> x = RandomFloats(rng, num_rows * (kColumns + 3));
    for (const bool accumulate : {false, true}) {
      for (const float* b : {static_cast<const float*>(nullptr), bias.data()}) {
        const Call call{.num_rows = num_rows,
                        .x_gap = 3,
                        .y_gap = 5,
                        .bias = b,
                        .accumulate = accumulate,
                        .scale = accumulate ? 0.37f : 1};
        // What is between the rows of y is compared, too.
        ExpectSameBits(RunCuda(packed, call, x), RunReference(*expected_packed, call, x));
      }
    }
  }
}

// Zeros, subnormals, one huge value beside tiny ones, the whole range.
TEST(CudaGemmTest, HostileActivations) {
  std::mt19937 rng(8);
  constexpr int64_t kColumns = 256;
  std::vector<float> x(4 * kColumns, 0.0f);  // row 0: zeros
  for (size_t i = 0; i < kColumns; ++i) {
    x[kColumns + i] = static_cast<float>(i) * std::numeric_limits<float>::denorm_min();
    x[2 * kColumns + i] = i % 32 == 5 ? -1e20f : 1.0f;
    x[3 * kColumns + i] = (i % 2 == 0 ? 1e-30f : -1e30f) * static_cast<float>(i + 1);
  }
  for (const WeightType type : kQuantised) {
    SCOPED_TRACE(FindWeightBlock(type)->name);
    const Weights w(rng, type, 33, kColumns);
    const Call call{.num_rows = 4};
    ExpectSameBits(RunCuda(DeviceMatrix(w), call, x),
                   RunReference(*reference::Pack({&w.matrix, 1}), call, x));
  }
}

// A value that is not finite spoils its own row and no other. Of dense W it goes where the formula
// takes it.
TEST(CudaGemmTest, NonFiniteRowsFailAlone) {
  std::mt19937 rng(9);
  constexpr int64_t kColumns = 256, kOutputs = 20;
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  for (const WeightType type : {WeightType::kQ4_1, WeightType::kQ4_0, WeightType::kQ6_K,
                                WeightType::kQ8_0, WeightType::kBF16, WeightType::kF32}) {
    SCOPED_TRACE(FindWeightBlock(type)->name);
    const bool is_dense = FindWeightBlock(type)->num_elements == 1;
    const Weights w(rng, type, kOutputs, kColumns);
    const DeviceMatrix packed(w);
    for (const int64_t num_rows : {3, 34}) {
      for (const float bad : {std::numeric_limits<float>::quiet_NaN(), -kInfinity}) {
        std::vector<float> x = RandomFloats(rng, num_rows * kColumns);
        const Call call{.num_rows = num_rows};
        const std::vector<float> clean = RunCuda(packed, call, x);
        x[kColumns + 77] = bad;
        const std::vector<float> y = RunCuda(packed, call, x);
        for (int64_t i = 0; i < num_rows * kOutputs; ++i) {
          const auto at = static_cast<size_t>(i);
          if (i / kOutputs != 1) {
            EXPECT_EQ(y[at], clean[at]) << i;
          } else if (is_dense && bad == -kInfinity) {
            EXPECT_FALSE(std::isfinite(y[at])) << i;
          } else {
            EXPECT_TRUE(std::isnan(y[at])) << i;
          }
        }
      }
    }
  }
}

// Rows go by in slices, with the same bits.
TEST(CudaGemmTest, SmallWorkspace) {
  std::mt19937 rng(10);
  constexpr int64_t kColumns = 96, kRows = 61;
  for (const WeightType type : {WeightType::kQ4_0, WeightType::kBF16}) {
    const Weights w(rng, type, 18, kColumns);
    const DeviceMatrix packed(w);
    const std::vector<float> x = RandomFloats(rng, kRows * kColumns);
    const Call call{.num_rows = kRows};
    const std::vector<float> expected = RunCuda(packed, call, x);
    for (const int64_t room : {1, 8, 17, 40}) {
      ExpectSameBits(RunCuda(packed, call, x, room), expected);
    }
  }
}

TEST(CudaGemmTest, NoRows) {
  std::mt19937 rng(11);
  const Weights w(rng, WeightType::kQ4_1, 32, 32);
  EXPECT_EQ(RunCuda(DeviceMatrix(w), {.num_rows = 0}, {}), std::vector<float>{kUntouched});
}

}  // namespace
}  // namespace nsa::kernels
