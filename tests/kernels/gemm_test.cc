#include "kernels/ops/gemm.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "kernels/cpu/cpu.h"
#include "kernels/reference/reference.h"
#include "tests/kernels/cpu_targets.h"
#include "tests/kernels/gemm_cases.h"

namespace nsa::kernels {
namespace {

std::vector<float> RunCpu(cpu::Context& context, const PackedMatrix& w, const Call& call,
                          const std::vector<float>& x) {
  std::vector<float> y;
  cpu::Gemm(context, MakeParams(w, call, x, y));
  return y;
}

// Targets without fused multiply-add round twice where the reference rounds once.
void ExpectSame(const std::vector<float>& actual, const std::vector<float>& expected) {
  ASSERT_EQ(actual.size(), expected.size());
  for (size_t i = 0; i < actual.size(); ++i) {
    if (TargetHasFma()) {
      ASSERT_EQ(std::bit_cast<uint32_t>(actual[i]), std::bit_cast<uint32_t>(expected[i]))
          << i << ": " << actual[i] << " " << expected[i];
    } else {
      ASSERT_NEAR(actual[i], expected[i], 1e-3f + 1e-6f * std::fabs(expected[i])) << i;
    }
  }
}

class GemmTest : public CpuTargetTest {};

TEST_P(GemmTest, QuantisedTypesEqualTheReferenceBitForBit) {
  std::mt19937 rng(1);
  cpu::Context context(2);
  for (WeightType type : kQuantised) {
    SCOPED_TRACE(FindWeightBlock(type)->name);
    for (int64_t num_outputs : {1, 31, 32, 33, 100}) {
      for (int64_t num_columns : {256, 768}) {
        const Weights w(rng, type, num_outputs, num_columns);
        const auto packed = cpu::Pack(context, {&w.matrix, 1});
        const auto expected_packed = reference::Pack({&w.matrix, 1});
        EXPECT_EQ(packed->num_rows(), num_outputs);
        EXPECT_EQ(packed->num_columns(), num_columns);
        for (int64_t num_rows : {1, 2, 3, 5, 7, 23}) {
          const std::vector<float> x = RandomFloats(rng, num_rows * num_columns);
          const Call call{.num_rows = num_rows};
          ExpectSame(RunCpu(context, *packed, call, x), RunReference(*expected_packed, call, x));
        }
      }
    }
  }
}

// Formats with blocks of 32 also come in row lengths that the larger blocks do not divide.
TEST_P(GemmTest, ShortRowsOfSmallBlocks) {
  std::mt19937 rng(2);
  cpu::Context context(1);
  for (WeightType type : kQuantised) {
    if (FindWeightBlock(type)->num_elements != 32) continue;
    for (int64_t num_columns : {32, 96, 576}) {
      const Weights w(rng, type, 40, num_columns);
      const std::vector<float> x = RandomFloats(rng, 9 * num_columns);
      const Call call{.num_rows = 9};
      ExpectSame(RunCpu(context, *cpu::Pack(context, {&w.matrix, 1}), call, x),
                 RunReference(*reference::Pack({&w.matrix, 1}), call, x));
    }
  }
}

TEST_P(GemmTest, DenseTypesEqualTheReference) {
  std::mt19937 rng(3);
  cpu::Context context(2);
  for (WeightType type : kDense) {
    SCOPED_TRACE(FindWeightBlock(type)->name);
    for (int64_t num_columns : {1, 7, 64, 129}) {
      const Weights w(rng, type, 45, num_columns);
      const std::vector<float> x = RandomFloats(rng, 8 * num_columns);
      const Call call{.num_rows = 8};
      ExpectSame(RunCpu(context, *cpu::Pack(context, {&w.matrix, 1}), call, x),
                 RunReference(*reference::Pack({&w.matrix, 1}), call, x));
    }
  }
}

// The reference's own arithmetic against the dequantised product in double.
TEST_P(GemmTest, IsCloseToTheDequantisedProduct) {
  std::mt19937 rng(4);
  cpu::Context context(1);
  constexpr int64_t kOutputs = 33, kColumns = 768;
  for (WeightType type : kQuantised) {
    SCOPED_TRACE(FindWeightBlock(type)->name);
    const Weights w(rng, type, kOutputs, kColumns);
    const std::vector<float> x = RandomFloats(rng, kColumns);
    const std::vector<float> y = RunCpu(context, *cpu::Pack(context, {&w.matrix, 1}), {}, x);
    std::vector<float> row(kColumns);
    for (int64_t n = 0; n < kOutputs; ++n) {
      DequantizeRow(type, w.bytes.data() + n * RowBytes(type, kColumns), kColumns, row.data());
      double expected = 0, magnitude = 0;
      for (size_t k = 0; k < row.size(); ++k) {
        expected += double{row[k]} * double{x[k]};
        magnitude += std::fabs(double{row[k]} * double{x[k]});
      }
      // Half a step of the activations is amax / 65278; the sum's rounding is far below that.
      EXPECT_NEAR(y[static_cast<size_t>(n)], expected, 3e-5 * magnitude) << n;
    }
  }
}

// The property that the server stands on: a row's bits do not depend on its company.
TEST_P(GemmTest, RowInvariance) {
  std::mt19937 rng(5);
  constexpr int64_t kMaxRows = 70, kColumns = 256;
  const bool fast = TargetHasFma();
  for (WeightType type : {WeightType::kQ4_1, WeightType::kQ4_0, WeightType::kQ6_K,
                          WeightType::kQ5_K, WeightType::kF32, WeightType::kBF16}) {
    SCOPED_TRACE(FindWeightBlock(type)->name);
    const Weights w(rng, type, 77, kColumns);
    cpu::Context alone(1);
    const auto packed = cpu::Pack(alone, {&w.matrix, 1});
    const std::vector<float> x = RandomFloats(rng, kMaxRows * kColumns);
    std::vector<float> expected;
    for (int64_t r = 0; r < kMaxRows; ++r) {
      const std::vector<float> row(x.begin() + r * kColumns, x.begin() + (r + 1) * kColumns);
      const std::vector<float> y = RunCpu(alone, *packed, {}, row);
      expected.insert(expected.end(), y.begin(), y.end() - 1);
    }
    for (int num_threads : {1, 2, 3}) {
      cpu::Context context(num_threads);
      for (int64_t num_rows = 1; num_rows <= kMaxRows; num_rows += fast ? 1 : 23) {
        const std::vector<float> y = RunCpu(context, *packed, {.num_rows = num_rows}, x);
        ASSERT_EQ(0, std::memcmp(y.data(), expected.data(), (y.size() - 1) * sizeof(float)))
            << num_rows << " rows, " << num_threads << " threads";
      }
    }
  }
}

TEST_P(GemmTest, PartsOfDifferentTypesAndOddSizes) {
  std::mt19937 rng(6);
  constexpr int64_t kColumns = 256;
  std::vector<Weights> weights;
  weights.reserve(7);
  std::vector<WeightMatrix> parts;
  const int64_t sizes[] = {17, 1, 64, 0, 31, 5, 40};
  const WeightType types[] = {WeightType::kQ4_1, WeightType::kQ8_0, WeightType::kF16,
                              WeightType::kQ4_0, WeightType::kQ6_K, WeightType::kQ5_0,
                              WeightType::kQ4_K};
  int64_t total = 0;
  for (int i = 0; i < 7; ++i) {
    parts.push_back(weights.emplace_back(rng, types[i], sizes[i], kColumns).matrix);
    total += sizes[i];
  }
  cpu::Context packing(1);
  const auto packed = cpu::Pack(packing, parts);
  EXPECT_EQ(packed->num_rows(), total);
  EXPECT_GT(packed->num_bytes(), 0);
  const auto expected = reference::Pack(parts);
  weights.clear();  // Pack copies
  for (int num_threads : {1, 2, 3}) {
    cpu::Context context(num_threads);
    for (int64_t num_rows : {1, 6, 50}) {
      const std::vector<float> x = RandomFloats(rng, num_rows * kColumns);
      const Call call{.num_rows = num_rows};
      ExpectSame(RunCpu(context, *packed, call, x), RunReference(*expected, call, x));
    }
  }
}

TEST_P(GemmTest, BiasAccumulateAndStrides) {
  std::mt19937 rng(7);
  cpu::Context context(2);
  constexpr int64_t kOutputs = 50, kColumns = 64, kRows = 13;
  const Weights w(rng, WeightType::kQ4_1, kOutputs, kColumns);
  const auto packed = cpu::Pack(context, {&w.matrix, 1});
  const auto expected_packed = reference::Pack({&w.matrix, 1});
  const std::vector<float> bias = RandomFloats(rng, kOutputs);
  const std::vector<float> x = RandomFloats(rng, kRows * (kColumns + 3));
  for (bool accumulate : {false, true}) {
    for (const float* b : {static_cast<const float*>(nullptr), bias.data()}) {
      const Call call{.num_rows = kRows,
                      .x_gap = 3,
                      .y_gap = 5,
                      .bias = b,
                      .accumulate = accumulate,
                      .scale = accumulate ? 0.37f : 1};
      const std::vector<float> y = RunCpu(context, *packed, call, x);
      ExpectSame(y, RunReference(*expected_packed, call, x));
      for (int64_t r = 0; r < kRows; ++r) {
        for (int64_t i = kOutputs; i < kOutputs + call.y_gap; ++i) {
          ASSERT_EQ(y[static_cast<size_t>(r * (kOutputs + call.y_gap) + i)], kUntouched);
        }
      }
      EXPECT_EQ(y.back(), kUntouched);
    }
  }
}

// Extreme activations: zeros, subnormals, one huge value beside tiny ones, the whole range.
TEST_P(GemmTest, HostileActivations) {
  std::mt19937 rng(8);
  cpu::Context context(1);
  constexpr int64_t kColumns = 256;
  constexpr float kMax = std::numeric_limits<float>::max();
  constexpr int64_t kRows = 5 * 4 + 3;
  std::vector<float> x(kRows * kColumns, 0.0f);  // every fourth row: zeros
  for (size_t i = 0; i < kColumns; ++i) {
    for (size_t row = 0; row + 3 < kRows; row += 4) {
      float* column = x.data() + row * kColumns + i;
      column[kColumns] = static_cast<float>(i) * std::numeric_limits<float>::denorm_min();
      column[2 * kColumns] = i % 32 == 5 ? -1e20f : 1.0f;
      column[3 * kColumns] = (i % 2 == 0 ? 1e-30f : -1e30f) * static_cast<float>(i + 1);
    }
  }
  for (WeightType type : kQuantised) {
    SCOPED_TRACE(FindWeightBlock(type)->name);
    const Weights w(rng, type, 33, kColumns);
    const Call call{.num_rows = kRows};
    const std::vector<float> y = RunCpu(context, *cpu::Pack(context, {&w.matrix, 1}), call, x);
    if (TargetHasFma()) ExpectSame(y, RunReference(*reference::Pack({&w.matrix, 1}), call, x));
    for (size_t i = 0; i < 33; ++i) EXPECT_EQ(y[i], 0.0f);
    for (size_t i = 0; i + 1 < y.size(); ++i) EXPECT_LT(std::fabs(y[i]), kMax);
  }
}

// A value that is not finite spoils its own row and no other.
TEST_P(GemmTest, NonFiniteRowsFailAlone) {
  std::mt19937 rng(9);
  cpu::Context context(1);
  constexpr int64_t kColumns = 256, kOutputs = 40, kRows = 19;
  for (WeightType type : {WeightType::kQ4_1, WeightType::kQ4_0, WeightType::kQ6_K}) {
    const Weights w(rng, type, kOutputs, kColumns);
    const auto packed = cpu::Pack(context, {&w.matrix, 1});
    for (float bad :
         {std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::infinity()}) {
      std::vector<float> x = RandomFloats(rng, kRows * kColumns);
      const Call call{.num_rows = kRows};
      const std::vector<float> clean = RunCpu(context, *packed, call, x);
      x[kColumns + 77] = bad;
      const std::vector<float> y = RunCpu(context, *packed, call, x);
      for (size_t i = 0; i < kRows * kOutputs; ++i) {
        if (i / kOutputs == 1) {
          EXPECT_TRUE(std::isnan(y[i])) << i;
        } else {
          EXPECT_EQ(y[i], clean[i]) << i;
        }
      }
    }
  }
}

TEST_P(GemmTest, NoRows) {
  std::mt19937 rng(10);
  cpu::Context context(2);
  const Weights w(rng, WeightType::kQ4_1, 32, 32);
  EXPECT_EQ(RunCpu(context, *cpu::Pack(context, {&w.matrix, 1}), {.num_rows = 0}, {}),
            std::vector<float>{kUntouched});
}

NSA_INSTANTIATE_CPU_TARGETS(GemmTest);

}  // namespace
}  // namespace nsa::kernels
