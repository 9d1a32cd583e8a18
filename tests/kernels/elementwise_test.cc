#include "kernels/ops/elementwise.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "kernels/cpu/cpu.h"
#include "kernels/reference/reference.h"
#include "tests/kernels/cpu_targets.h"

namespace nsa::kernels {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
// Around every vector width, odd, and the model's own sizes.
constexpr int64_t kSizes[] = {1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65, 127, 576, 1000};

std::vector<float> RandomFloats(std::mt19937& rng, int64_t count, float scale = 1) {
  std::normal_distribution<float> normal(0, scale);
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = normal(rng);
  return values;
}

class ElementwiseTest : public CpuTargetTest {};

TEST_P(ElementwiseTest, EmbedEqualsTheReference) {
  std::mt19937 rng(1);
  cpu::Context context(2);
  constexpr int64_t kVocabulary = 50, kColumns = 256;
  for (WeightType type : {WeightType::kQ8_0, WeightType::kQ4_1, WeightType::kQ6_K, WeightType::kF32,
                          WeightType::kF16, WeightType::kBF16}) {
    std::vector<uint8_t> table(static_cast<size_t>(kVocabulary * RowBytes(type, kColumns)));
    for (uint8_t& byte : table) byte = static_cast<uint8_t>(rng());
    for (int64_t num_rows : {0, 1, 40}) {
      std::vector<int32_t> ids(static_cast<size_t>(num_rows));
      for (int32_t& id : ids) id = static_cast<int32_t>(rng() % kVocabulary);
      if (num_rows > 1) ids[0] = 0, ids[1] = kVocabulary - 1;
      std::vector<float> y(static_cast<size_t>(num_rows * kColumns) + 1, 7), expected = y;
      EmbedParams p{{table.data(), type, kVocabulary, kColumns}, ids.data(), y.data(), num_rows};
      cpu::Embed(context, p);
      p.y = expected.data();
      reference::Embed(p);
      EXPECT_EQ(0, std::memcmp(y.data(), expected.data(), y.size() * sizeof(float)));
    }
  }
}

TEST_P(ElementwiseTest, EmbedTakesTokensFromTheirPlaces) {
  cpu::Context context(2);
  const float table[] = {1, 2, 3, 4, 5, 6};
  const int32_t ids[] = {0, -7, 1, -7}, sampled[] = {9, -1, 2}, places[] = {-1, 2, -1, 1};
  const std::vector<float> expected = {2, 4, 10, 12, 6, 8, 0, 0};
  for (const bool is_reference : {false, true}) {
    std::vector<float> y(8, 7);
    const EmbedParams p{.table = {table, WeightType::kF32, 3, 2},
                        .ids = ids,
                        .y = y.data(),
                        .num_rows = 4,
                        .scale = 2,
                        .places = places,
                        .sampled = sampled};
    is_reference ? reference::Embed(p) : cpu::Embed(context, p);
    EXPECT_EQ(y, expected);
  }
  const int32_t wrong = 0;
  float y[2];
  const EmbedParams p{.table = {table, WeightType::kF32, 3, 2},
                      .ids = ids,
                      .y = y,
                      .num_rows = 1,
                      .places = &wrong,
                      .sampled = sampled};
  EXPECT_DEATH(cpu::Embed(context, p), "check failed");
  EXPECT_DEATH(reference::Embed(p), "check failed");
}

TEST_P(ElementwiseTest, EmbedRefusesAnIdOutsideTheTable) {
  cpu::Context context(1);
  float table[4] = {}, y[2];
  for (int32_t id : {-1, 2}) {
    const EmbedParams p{{table, WeightType::kF32, 2, 2}, &id, y, 1};
    EXPECT_DEATH(cpu::Embed(context, p), "check failed");
  }
}

RmsNormParams NormParams(const std::vector<float>& x, const std::vector<float>& weight,
                         int64_t num_rows, std::vector<float>& y) {
  const auto columns = static_cast<int64_t>(weight.size());
  return {.x = x.data(),
          .x_stride = columns,
          .weight = weight.data(),
          .epsilon = 1e-5f,
          .y = y.data(),
          .y_stride = columns,
          .num_rows = num_rows,
          .num_columns = columns};
}

TEST_P(ElementwiseTest, RmsNormIsCloseToDouble) {
  std::mt19937 rng(2);
  cpu::Context context(2);
  for (int64_t columns : kSizes) {
    for (float scale : {1.0f, 1e-4f, 1e4f, 0.0f}) {
      const std::vector<float> x = RandomFloats(rng, 3 * columns, scale);
      const std::vector<float> weight = RandomFloats(rng, columns);
      std::vector<float> y(x.size());
      cpu::RmsNorm(context, NormParams(x, weight, 3, y));
      for (int64_t r = 0; r < 3; ++r) {
        double sum = 0;
        for (int64_t i = 0; i < columns; ++i) {
          sum += std::pow(double{x[static_cast<size_t>(r * columns + i)]}, 2);
        }
        const double inverse = 1 / std::sqrt(sum / static_cast<double>(columns) + double{1e-5f});
        for (int64_t i = 0; i < columns; ++i) {
          const auto at = static_cast<size_t>(r * columns + i);
          const double expected = double{x[at]} * inverse * double{weight[static_cast<size_t>(i)]};
          ASSERT_NEAR(y[at], expected, 2e-6 * std::fabs(expected) + 1e-30) << columns;
        }
      }
    }
  }
}

TEST_P(ElementwiseTest, RmsNormRowInvarianceAndInPlace) {
  std::mt19937 rng(3);
  constexpr int64_t kRows = 70;
  for (int64_t columns : {17, 576}) {
    const std::vector<float> x = RandomFloats(rng, kRows * columns);
    const std::vector<float> weight = RandomFloats(rng, columns);
    cpu::Context alone(1);
    std::vector<float> expected(x.size());
    for (int64_t r = 0; r < kRows; ++r) {
      RmsNormParams p = NormParams(x, weight, 1, expected);
      p.x += r * columns;
      p.y += r * columns;
      cpu::RmsNorm(alone, p);
    }
    for (int num_threads : {1, 2, 3}) {
      cpu::Context context(num_threads);
      std::vector<float> y = x;
      RmsNormParams p = NormParams(y, weight, kRows, y);
      cpu::RmsNorm(context, p);
      EXPECT_EQ(0, std::memcmp(y.data(), expected.data(), y.size() * sizeof(float)));
    }
  }
}

TEST_P(ElementwiseTest, RmsNormKeepsNanInItsRow) {
  cpu::Context context(1);
  std::vector<float> x(3 * 40, 1.0f), weight(40, 2.0f), y(x.size());
  x[45] = kNan;
  cpu::RmsNorm(context, NormParams(x, weight, 3, y));
  for (size_t i = 0; i < y.size(); ++i) EXPECT_EQ(std::isnan(y[i]), i / 40 == 1) << i;
}

TEST_P(ElementwiseTest, EmbedScales) {
  cpu::Context context(1);
  const float table[4] = {1, 2, 3, 4};
  const int32_t id = 1;
  float y[2], expected[2];
  EmbedParams p{{table, WeightType::kF32, 2, 2}, &id, y, 1, 2.5f};
  cpu::Embed(context, p);
  p.y = expected;
  reference::Embed(p);
  EXPECT_EQ(y[0], 7.5f);
  for (int i = 0; i < 2; ++i) EXPECT_EQ(y[i], expected[i]);
}

TEST_P(ElementwiseTest, RmsNormOfGroupsIsThatOfEachByItself) {
  std::mt19937 rng(4);
  cpu::Context context(2);
  constexpr int64_t kRows = 40, kGroups = 3, kColumns = 33, kStride = 120;
  const std::vector<float> x = RandomFloats(rng, kRows * kStride);
  const std::vector<float> weight = RandomFloats(rng, kColumns);
  std::vector<float> y = x, expected = x;
  RmsNormParams p = NormParams(y, weight, kRows, y);
  p.x_stride = p.y_stride = kStride;
  p.num_groups = kGroups;
  cpu::RmsNorm(context, p);
  for (int64_t i = 0; i < kRows * kGroups; ++i) {
    RmsNormParams one = NormParams(expected, weight, 1, expected);
    one.x += i / kGroups * kStride + i % kGroups * kColumns;
    one.y += i / kGroups * kStride + i % kGroups * kColumns;
    cpu::RmsNorm(context, one);
  }
  EXPECT_EQ(0, std::memcmp(y.data(), expected.data(), y.size() * sizeof(float)));
  std::vector<float> from_reference = x;
  p.x = p.y = from_reference.data();
  reference::RmsNorm(p);
  for (size_t i = 0; i < y.size(); ++i) ASSERT_NEAR(y[i], from_reference[i], 1e-5f) << i;
}

TEST_P(ElementwiseTest, RmsNormAccumulates) {
  std::mt19937 rng(5);
  cpu::Context context(1);
  constexpr int64_t kRows = 3, kColumns = 37;
  const std::vector<float> x = RandomFloats(rng, kRows * kColumns);
  const std::vector<float> weight = RandomFloats(rng, kColumns);
  const std::vector<float> before = RandomFloats(rng, kRows * kColumns);
  std::vector<float> normed(x.size()), y = before, from_reference = before;
  cpu::RmsNorm(context, NormParams(x, weight, kRows, normed));
  RmsNormParams p = NormParams(x, weight, kRows, y);
  p.accumulate = true;
  cpu::RmsNorm(context, p);
  for (size_t i = 0; i < y.size(); ++i) EXPECT_EQ(y[i], before[i] + normed[i]);
  p.y = from_reference.data();
  reference::RmsNorm(p);
  for (size_t i = 0; i < y.size(); ++i) EXPECT_NEAR(y[i], from_reference[i], 1e-5f);
}

GluParams GluCall(const std::vector<float>& gate, const std::vector<float>& up, int64_t num_rows,
                  std::vector<float>& y) {
  const int64_t columns = static_cast<int64_t>(gate.size()) / num_rows;
  return {.gate = gate.data(),
          .gate_stride = columns,
          .up = up.data(),
          .up_stride = columns,
          .y = y.data(),
          .y_stride = columns,
          .num_rows = num_rows,
          .num_columns = columns};
}

TEST_P(ElementwiseTest, GluIsCloseToDoubleEverywhere) {
  std::vector<float> gate;
  for (float x = -120; x < 120; x += 0.0371f) gate.push_back(x);
  for (float x = 1e-38f; x < 1e38f; x *= 3.7f) gate.insert(gate.end(), {x, -x});
  gate.insert(gate.end(), {0.0f, -0.0f, 1e-45f, -1e-45f, 3e38f});
  const std::vector<float> up(gate.size(), 1.0f);
  std::vector<float> y(gate.size());
  cpu::Context context(1);
  cpu::Glu(context, GluCall(gate, up, 1, y));
  for (size_t i = 0; i < gate.size(); ++i) {
    const double g = gate[i];
    const double expected = g / (1 + std::exp(-g));
    ASSERT_NEAR(y[i], expected, 6e-7 * std::fabs(expected) + 1.5e-43) << g;
  }
}

TEST_P(ElementwiseTest, GeluIsCloseToDoubleEverywhere) {
  std::vector<float> gate;
  for (float x = -60; x < 60; x += 0.0371f) gate.push_back(x);
  for (float x = 1e-30f; x < 1e30f; x *= 3.7f) gate.insert(gate.end(), {x, -x});
  gate.insert(gate.end(), {0.0f, -0.0f, kInfinity});
  const std::vector<float> up(gate.size(), 1.5f);
  std::vector<float> y(gate.size()), from_reference(gate.size());
  cpu::Context context(1);
  GluParams p = GluCall(gate, up, 1, y);
  p.activation = GateActivation::kGeluTanh;
  cpu::Glu(context, p);
  p.y = from_reference.data();
  reference::Glu(p);
  for (size_t i = 0; i < gate.size(); ++i) {
    const double g = gate[i];
    const double z = std::sqrt(2 / 3.14159265358979324) * (g + 0.044715 * g * g * g);
    const double expected = 1.5 * (g <= -40 ? 0.0 : g / (1 + std::exp(-2 * z)));
    if (std::isinf(g)) {
      EXPECT_EQ(y[i], expected);
      continue;
    }
    // Far below zero the rounding of the exponent is magnified, and the value is next to nothing;
    // the reference takes the tangent's difference from one.
    ASSERT_NEAR(y[i], expected, 1e-5 * std::fabs(expected) * std::fmax(1, g * g) + 1e-30) << g;
    ASSERT_NEAR(from_reference[i], expected, 1e-6 * std::fmax(1, std::fabs(g))) << g;
  }
}

TEST_P(ElementwiseTest, GluMatchesTheReferenceAndIsRowInvariant) {
  std::mt19937 rng(4);
  for (int64_t columns : kSizes) {
    constexpr int64_t kRows = 21;
    const std::vector<float> gate = RandomFloats(rng, kRows * columns, 4);
    const std::vector<float> up = RandomFloats(rng, kRows * columns);
    std::vector<float> expected(gate.size()), all(gate.size()), single(gate.size());
    reference::Glu(GluCall(gate, up, kRows, expected));
    cpu::Context context(3);
    cpu::Glu(context, GluCall(gate, up, kRows, all));
    for (int64_t r = 0; r < kRows; ++r) {
      GluParams p = GluCall(gate, up, kRows, single);
      p.num_rows = 1;
      p.gate += r * columns;
      p.up += r * columns;
      p.y += r * columns;
      cpu::Glu(context, p);
    }
    EXPECT_EQ(0, std::memcmp(all.data(), single.data(), all.size() * sizeof(float)));
    for (size_t i = 0; i < all.size(); ++i) {
      ASSERT_NEAR(all[i], expected[i], 1e-6f * std::fabs(expected[i]) + 1e-12f);
    }
  }
}

TEST_P(ElementwiseTest, WithoutUpTheActivationIsAlone) {
  std::mt19937 rng(6);
  for (const GateActivation activation : {GateActivation::kSilu, GateActivation::kGeluTanh}) {
    for (const int64_t columns : kSizes) {
      const std::vector<float> gate = RandomFloats(rng, columns, 4);
      const std::vector<float> ones(gate.size(), 1.0f);
      std::vector<float> expected(gate.size()), actual(gate.size());
      cpu::Context context(1);
      for (const bool from_reference : {false, true}) {
        GluParams p = GluCall(gate, ones, 1, expected);
        p.activation = activation;
        from_reference ? reference::Glu(p) : cpu::Glu(context, p);
        p.up = nullptr;
        p.y = actual.data();
        from_reference ? reference::Glu(p) : cpu::Glu(context, p);
        EXPECT_EQ(actual, expected) << columns;
      }
    }
  }
}

TEST_P(ElementwiseTest, GluMayWriteOverItsInputs) {
  std::mt19937 rng(5);
  cpu::Context context(1);
  const std::vector<float> gate = RandomFloats(rng, 99), up = RandomFloats(rng, 99);
  std::vector<float> expected(99), over_gate = gate, over_up = up;
  cpu::Glu(context, GluCall(gate, up, 1, expected));
  cpu::Glu(context, GluCall(over_gate, up, 1, over_gate));
  cpu::Glu(context, GluCall(gate, over_up, 1, over_up));
  EXPECT_EQ(over_gate, expected);
  EXPECT_EQ(over_up, expected);
}

TEST_P(ElementwiseTest, GluSpecialValues) {
  cpu::Context context(1);
  const std::vector<float> gate = {kNan, kInfinity, -kInfinity, 1, 1};
  const std::vector<float> up = {1, 2, 1, kNan, -kInfinity};
  std::vector<float> y(5);
  cpu::Glu(context, GluCall(gate, up, 1, y));
  EXPECT_TRUE(std::isnan(y[0]));
  EXPECT_EQ(y[1], kInfinity);
  EXPECT_TRUE(std::isnan(y[2]));  // −inf · 0, as in the formula
  EXPECT_TRUE(std::isnan(y[3]));
  EXPECT_EQ(y[4], -kInfinity);
}

NSA_INSTANTIATE_CPU_TARGETS(ElementwiseTest);

}  // namespace
}  // namespace nsa::kernels
