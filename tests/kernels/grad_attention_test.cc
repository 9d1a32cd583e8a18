#include "kernels/grad/grad_attention.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "kernels/cpu/cpu.h"
#include "tests/kernels/cpu_targets.h"
#include "tests/kernels/grad_batch.h"

namespace nsa::kernels::grad {
namespace {

// Against double: sums of some hundred float products of unit size.
constexpr double kTolerance = 2e-5;

void ExpectNear(const std::vector<double>& expected, const std::vector<float>& actual,
                const char* what) {
  grad::ExpectNear(expected, actual, kTolerance, what);
}

void RunCpu(kernels::cpu::Context& context, GradBatch<float>& batch) {
  cpu::AttentionForward(context, batch.input, batch.output());
  cpu::AttentionBackward(context, batch.input, batch.gradients());
}

class GradAttentionTest : public testing::TestWithParam<GradCase> {
 protected:
  void TearDown() override { kernels::cpu::ForceTarget(""); }
};

TEST_P(GradAttentionTest, CpuMatchesTheReferenceInDouble) {
  GradBatch<double> expected(GetParam());
  reference::AttentionForward(expected.input, expected.output());
  reference::AttentionBackward(expected.input, expected.gradients());
  kernels::cpu::Context context(2);
  for (const std::string& target : kernels::cpu::SupportedTargetNames()) {
    SCOPED_TRACE(target);
    kernels::cpu::ForceTarget(target);
    GradBatch<float> actual(GetParam());
    RunCpu(context, actual);
    ExpectNear(expected.out, actual.out, "out");
    ExpectNear(expected.lse, actual.lse, "lse");
    EXPECT_EQ(expected.selected, actual.selected);
    ExpectNear(expected.grad_q, actual.grad_q, "grad_q");
    ExpectNear(expected.grad_k, actual.grad_k, "grad_k");
    ExpectNear(expected.grad_v, actual.grad_v, "grad_v");
  }
}

TEST_P(GradAttentionTest, BitsDoNotDependOnThreads) {
  GradBatch<float> one(GetParam());
  kernels::cpu::Context single(1);
  RunCpu(single, one);
  for (const int num_threads : {2, 5}) {
    kernels::cpu::Context context(num_threads);
    GradBatch<float> many(GetParam());
    RunCpu(context, many);
    EXPECT_EQ(one.out, many.out);
    EXPECT_EQ(one.lse, many.lse);
    EXPECT_EQ(one.selected, many.selected);
    EXPECT_EQ(one.grad_q, many.grad_q);
    EXPECT_EQ(one.grad_k, many.grad_k);
    EXPECT_EQ(one.grad_v, many.grad_v);
  }
}

TEST_P(GradAttentionTest, ReferenceInFloatMatchesThatInDouble) {
  GradBatch<double> expected(GetParam());
  reference::AttentionForward(expected.input, expected.output());
  reference::AttentionBackward(expected.input, expected.gradients());
  GradBatch<float> actual(GetParam());
  reference::AttentionForward(actual.input, actual.output());
  reference::AttentionBackward(actual.input, actual.gradients());
  ExpectNear(expected.out, actual.out, "out");
  ExpectNear(expected.grad_q, actual.grad_q, "grad_q");
  ExpectNear(expected.grad_k, actual.grad_k, "grad_k");
  ExpectNear(expected.grad_v, actual.grad_v, "grad_v");
}

INSTANTIATE_TEST_SUITE_P(, GradAttentionTest, testing::ValuesIn(GradCases()),
                         [](const auto& info) { return info.param.name; });

// The gradient of Σ out·grad_out, element by element, as its definition has it.
void ExpectFiniteDifferences(GradBatch<double>& batch, std::vector<double>& values,
                             const std::vector<double>& gradients, const char* what) {
  constexpr double kStep = 1e-5;
  const auto loss = [&] {
    reference::AttentionForward(batch.input, {batch.out.data(), batch.lse.data(), nullptr});
    double sum = 0;
    for (size_t i = 0; i < batch.out.size(); ++i) sum += batch.out[i] * batch.grad_out[i];
    return sum;
  };
  for (size_t i = 0; i < values.size(); i += 3) {
    const double value = values[i];
    values[i] = value + kStep;
    const double above = loss();
    values[i] = value - kStep;
    const double below = loss();
    values[i] = value;
    ASSERT_NEAR((above - below) / (2 * kStep), gradients[i], 1e-7) << what << ' ' << i;
  }
}

TEST(GradAttentionReferenceTest, BackwardIsTheForwardsDerivative) {
  const AttentionSpec spec = {8, 4, 8, 3, 1, 1, 5};
  for (const Branch branch : {Branch::kCompressed, Branch::kSelected, Branch::kWindow}) {
    SCOPED_TRACE(static_cast<int>(branch));
    GradBatch<double> batch({"", branch, {3, 21}, 2, 2, 3, 4, spec});
    reference::AttentionForward(batch.input, batch.output());
    reference::AttentionBackward(batch.input, batch.gradients());
    ExpectFiniteDifferences(batch, batch.q, batch.grad_q, "q");
    ExpectFiniteDifferences(batch, batch.k, batch.grad_k, "k");
    ExpectFiniteDifferences(batch, batch.v, batch.grad_v, "v");
  }
}

TEST(GradAttentionCpuTest, ASequenceGivesTheSameBitsAloneAndInABatch) {
  const AttentionSpec spec = {32, 16, 64, 4, 1, 2, 100};
  for (const Branch branch : {Branch::kCompressed, Branch::kSelected, Branch::kWindow}) {
    SCOPED_TRACE(static_cast<int>(branch));
    kernels::cpu::Context context(2);
    GradBatch<float> alone({"", branch, {300}, 2, 2, 32, 32, spec});
    GradBatch<float> batch({"", branch, {300, 77}, 2, 2, 32, 32, spec});
    RunCpu(context, alone);
    RunCpu(context, batch);
    const auto starts_with = [](const std::vector<float>& all, const std::vector<float>& part) {
      return std::equal(part.begin(), part.end(), all.begin());
    };
    EXPECT_TRUE(starts_with(batch.out, alone.out));
    EXPECT_TRUE(starts_with(batch.grad_q, alone.grad_q));
    EXPECT_TRUE(starts_with(batch.grad_k, alone.grad_k));
    EXPECT_TRUE(starts_with(batch.grad_v, alone.grad_v));
  }
}

TEST(GradAttentionCpuTest, AQueryThatSeesNothingGivesZeros) {
  kernels::cpu::Context context(1);
  const AttentionSpec spec = {32, 16, 64, 4, 1, 2, 100};
  GradBatch<float> batch({"", Branch::kCompressed, {40}, 2, 1, 16, 16, spec});
  RunCpu(context, batch);
  for (int64_t row = 0; row < 31 * 2; ++row) {
    EXPECT_EQ(batch.lse[row], -INFINITY);
    for (int i = 0; i < 16; ++i) {
      EXPECT_EQ(batch.out[row * 16 + i], 0);
      EXPECT_EQ(batch.grad_q[row * 16 + i], 0);
    }
  }
  EXPECT_NE(batch.grad_q[31 * 2 * 16], 0);
}

TEST(GradAttentionCpuTest, AWindowOfOneTokenGivesItsValue) {
  kernels::cpu::Context context(2);
  const AttentionSpec spec = {.window_size = 1};
  GradBatch<float> batch({"", Branch::kWindow, {150}, 1, 2, 16, 16, spec});
  RunCpu(context, batch);
  EXPECT_EQ(batch.out, batch.v);
  EXPECT_EQ(batch.grad_v, batch.grad_out);
  // Its only probability cannot change.
  for (const float x : batch.grad_q) EXPECT_NEAR(x, 0, 2e-5);
  for (const float x : batch.grad_k) EXPECT_NEAR(x, 0, 2e-5);
}

TEST(GradAttentionCpuTest, AQueryThatIsNotANumberShows) {
  kernels::cpu::Context context(1);
  GradBatch<float> batch({"", Branch::kWindow, {40}, 1, 1, 16, 16, {}});
  batch.q[5 * 16] = NAN;
  RunCpu(context, batch);
  EXPECT_TRUE(std::isnan(batch.out[5 * 16]));
  EXPECT_FALSE(std::isnan(batch.out[4 * 16]));
  EXPECT_FALSE(std::isnan(batch.out[6 * 16]));
}

}  // namespace
}  // namespace nsa::kernels::grad
