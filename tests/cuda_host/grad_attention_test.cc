#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "tests/cuda_host/grad_world.h"
#include "tests/cuda_host/orders.h"

namespace nsa::kernels::grad {
namespace {

// Of float32, as the CPU's. Of bfloat16 up to five roundings to 8 bits (2⁻⁹) lie between a gradient
// and the reference's: of the output that δ is made of, of p and ds, of the result; and δ may
// cancel most of what it is subtracted from.
constexpr double kTolerance = 2e-5;
constexpr double kRoundedTolerance = 1e-2;

double ToleranceOf(DType dtype) { return dtype == DType::kF32 ? kTolerance : kRoundedTolerance; }

// length, stride, sel_block_size, num_selected_blocks, num_initial_blocks, num_local_blocks,
// window_size
constexpr AttentionSpec kPaper = {32, 16, 64, 2, 1, 1, 100};
constexpr AttentionSpec kSmallBlocks = {16, 8, 32, 3, 2, 1, 64};
constexpr AttentionSpec kLargeBlocks = {64, 64, 128, 2, 0, 1, 2};
constexpr AttentionSpec kTinyBlocks = {8, 4, 8, 6, 1, 2, 7};

constexpr Branch kBranches[] = {Branch::kCompressed, Branch::kSelected, Branch::kWindow};

/// As tests/kernels/grad_batch.h, with fewer tokens: on tensor cores of 64, 128 and 192 dimensions,
/// with zeros behind and without, and beside them.
std::vector<GradCase> Cases() {
  std::vector<GradCase> cases;
  for (const Branch branch : kBranches) {
    const std::string prefix =
        std::vector<std::string>{"cmp_", "selected_", "window_"}[static_cast<size_t>(branch)];
    const auto add = [&](const char* name, std::vector<int64_t> lengths, int group,
                         int num_kv_heads, int head_dim_k, int head_dim_v,
                         const AttentionSpec& spec) {
      cases.push_back({prefix + name, branch, std::move(lengths), group, num_kv_heads, head_dim_k,
                       head_dim_v, spec});
    };
    add("paper", {170, 65}, 4, 1, 64, 64, kPaper);
    add("ragged", {1, 31, 0, 33, 64, 65}, 2, 2, 32, 48, kPaper);
    add("group_1", {150, 40}, 1, 2, 16, 80, kSmallBlocks);
    add("group_16", {70}, 16, 1, 128, 128, kSmallBlocks);
    add("group_3_wide", {75, 3}, 3, 1, 192, 128, kPaper);
    add("group_7_odd", {80, 3}, 7, 1, 19, 5, kPaper);
    add("large_blocks", {20, 270}, 3, 1, 16, 16, kLargeBlocks);
    add("tiny_blocks", {100, 61}, 5, 1, 16, 32, kTinyBlocks);
    add("group_64", {20}, 64, 1, 16, 16, kTinyBlocks);
    add("empty", {}, 2, 1, 16, 16, kPaper);
  }
  return cases;
}

class CudaGradAttentionCaseTest : public testing::TestWithParam<GradCase> {};

// Cut as large calls are: several items for a key tile, several choices one after the other.
constexpr cuda::GradLimits kSmallLimits = {64, 1};

TEST_P(CudaGradAttentionCaseTest, MatchesTheReferenceInDouble) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    SCOPED_TRACE(dtype == DType::kF32 ? "float32" : "bfloat16");
    RoundedBatch expected(GetParam(), dtype);
    expected.RunReference();
    const DeviceResults actual = RunDevice(*OpenDevice(kSmallLimits), expected, dtype);
    ExpectNear(expected, actual, ToleranceOf(dtype));
  }
}

INSTANTIATE_TEST_SUITE_P(, CudaGradAttentionCaseTest, testing::ValuesIn(Cases()),
                         [](const auto& info) { return info.param.name; });

GradCase OrderCase(Branch branch) { return {"", branch, {130, 20}, 3, 2, 24, 16, kSmallBlocks}; }

TEST(CudaGradAttentionOrderTest, HasNoRaces) {
  for (const Branch branch : kBranches) {
    for (const DType dtype : {DType::kF32, DType::kBF16}) {
      SCOPED_TRACE(testing::Message() << "branch " << static_cast<int>(branch));
      const RoundedBatch batch(OrderCase(branch), dtype);
      cuda_host::InEveryOrder(
          [&] { return RunDevice(*OpenDevice(kSmallLimits), batch, dtype).All(); });
    }
  }
}

TEST(CudaGradAttentionOrderTest, EveryBarrierIsMissed) {
  for (const Branch branch : kBranches) {
    for (const DType dtype : {DType::kF32, DType::kBF16}) {
      // A warp without tensor cores votes for its next key tile there, which hides a barrier of its
      // own that the other branches miss.
      if (branch == Branch::kSelected && dtype == DType::kF32) continue;
      SCOPED_TRACE(testing::Message() << "branch " << static_cast<int>(branch));
      // Of every branch several key tiles, and of every key tile several mask tiles.
      const RoundedBatch batch({"", branch, {150}, 2, 1, 16, 16, {8, 2, 32, 3, 1, 1, 100}}, dtype);
      cuda_host::ExpectEveryBarrierIsMissed(
          [&] { return RunDevice(*OpenDevice(kSmallLimits), batch, dtype).All(); });
    }
  }
}

// One item a key tile, the second of which has more queries than are listed at once.
TEST(CudaGradAttentionTest, MatchesTheReferenceUncut) {
  std::vector<GradCase> cases = {
      {"", Branch::kCompressed, {2200}, 1, 1, 16, 16, {32, 16, 64, 8, 1, 1, 1}}};
  for (const Branch branch : kBranches) cases.push_back(OrderCase(branch));
  for (const GradCase& c : cases) {
    RoundedBatch expected(c, DType::kBF16);
    expected.RunReference();
    ExpectNear(expected, RunDevice(*OpenDevice(), expected, DType::kBF16), kRoundedTolerance);
  }
}

// Items, and with them the order of sums, are a sequence's own.
TEST(CudaGradAttentionOrderTest, ASequenceGivesTheSameBitsAloneAndInABatch) {
  for (const Branch branch : kBranches) {
    for (const DType dtype : {DType::kF32, DType::kBF16}) {
      const RoundedBatch alone({"", branch, {100}, 2, 2, 32, 32, kPaper}, dtype);
      const RoundedBatch batch({"", branch, {100, 77}, 2, 2, 32, 32, kPaper}, dtype);
      const auto device = OpenDevice(kSmallLimits);
      const DeviceResults few = RunDevice(*device, alone, dtype);
      const DeviceResults many = RunDevice(*device, batch, dtype);
      const auto starts_with = [](const auto& all, const auto& part) {
        return std::equal(part.begin(), part.end(), all.begin());
      };
      EXPECT_TRUE(starts_with(many.out, few.out));
      EXPECT_TRUE(starts_with(many.grad_q, few.grad_q));
      EXPECT_TRUE(starts_with(many.grad_k, few.grad_k));
      EXPECT_TRUE(starts_with(many.grad_v, few.grad_v));
    }
  }
}

/// Σ out·grad_out of the device's forward.
double Loss(Device& device, const RoundedBatch& batch) {
  const DeviceResults results = RunDevice(device, batch, DType::kF32, false);
  double loss = 0;
  for (size_t i = 0; i < results.out.size(); ++i) loss += results.out[i] * batch.grad_out[i];
  return loss;
}

TEST(CudaGradAttentionDerivativeTest, BackwardIsTheForwardsDerivative) {
  constexpr double kStep = 1.0 / 64;
  for (const Branch branch : kBranches) {
    SCOPED_TRACE(static_cast<int>(branch));
    RoundedBatch batch({"", branch, {3, 21}, 2, 1, 3, 4, {8, 4, 8, 3, 1, 1, 5}}, DType::kF32);
    const auto device = OpenDevice();
    const DeviceResults results = RunDevice(*device, batch, DType::kF32);
    const auto expect = [&](std::vector<double>& values, const std::vector<float>& gradients) {
      for (size_t i = 0; i < values.size(); i += 7) {
        const double value = values[i];
        values[i] = value + kStep;
        const double above = Loss(*device, batch);
        values[i] = value - kStep;
        const double below = Loss(*device, batch);
        values[i] = value;
        ASSERT_NEAR((above - below) / (2 * kStep), gradients[i], 2e-3) << i;
      }
    };
    expect(batch.q, results.grad_q);
    expect(batch.k, results.grad_k);
    expect(batch.v, results.grad_v);
  }
}

TEST(CudaGradAttentionTest, WhatIsNoBlockIsPassedOver) {
  const GradCase c = {"", Branch::kSelected, {150, 40}, 2, 1, 16, 16, kPaper};
  RoundedBatch with(c, DType::kBF16);
  RoundedBatch without(c, DType::kBF16);
  for (size_t i = 0; i < with.selected.size(); i += 2) {
    without.selected[i] = without.selected[i + 1] = -1;
    with.selected[i] = i % 3 == 0 ? -2 : 2'000'000'000;
    with.selected[i + 1] = i % 3 == 1 ? 3 : -1;
    if (i > 60) with.selected[i] = without.selected[i] = 0;
  }
  const auto device = OpenDevice();
  EXPECT_TRUE(RunDevice(*device, with, DType::kBF16).out ==
              RunDevice(*device, without, DType::kBF16).out);
  without.RunReference();
  DeviceResults actual = RunDevice(*device, with, DType::kBF16);
  actual.selected = without.selected;
  ExpectNear(without, actual, kRoundedTolerance);
}

TEST(CudaGradAttentionTest, AQueryThatSeesNothingGivesZeros) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    const RoundedBatch batch({"", Branch::kCompressed, {60}, 2, 1, 16, 16, kPaper}, dtype);
    const DeviceResults results = RunDevice(*OpenDevice(), batch, dtype);
    for (int row = 0; row < 31 * 2; ++row) {
      EXPECT_EQ(results.lse[row], -INFINITY);
      for (int i = 0; i < 16; ++i) {
        EXPECT_EQ(results.out[row * 16 + i], 0);
        EXPECT_EQ(results.grad_q[row * 16 + i], 0);
      }
    }
    EXPECT_NE(results.grad_q[59 * 2 * 16], 0);
  }
}

TEST(CudaGradAttentionTest, AQueryThatIsNotANumberShows) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    RoundedBatch batch({"", Branch::kWindow, {40}, 1, 1, 16, 16, kPaper}, dtype);
    batch.q[5 * 16] = NAN;
    const DeviceResults results = RunDevice(*OpenDevice(), batch, dtype, false);
    EXPECT_TRUE(std::isnan(results.out[5 * 16]) && std::isnan(results.lse[5]));
    EXPECT_FALSE(std::isnan(results.out[4 * 16]));
    EXPECT_FALSE(std::isnan(results.out[6 * 16]));
  }
}

// Rows that tensor cores cannot copy, as their addresses are no multiples of 16.
TEST(CudaGradAttentionTest, AnyAddressOfAnElementServes) {
  const GradCase c = {"", Branch::kWindow, {40}, 2, 1, 16, 16, kPaper};
  RoundedBatch expected(c, DType::kBF16);
  expected.RunReference();
  Elements q(DType::kBF16, expected.q), k(DType::kBF16, expected.k), v(DType::kBF16, expected.v);
  std::vector<double> shifted = {0};
  shifted.insert(shifted.end(), expected.k.begin(), expected.k.end());
  Elements moved(DType::kBF16, shifted);
  Elements out(DType::kBF16, expected.out);
  std::vector<float> lse(expected.lse.size());
  const AttentionInput<double>& in = expected.input;
  DeviceAttention attention;
  attention.dtype = DType::kBF16;
  attention.input = {in.branch,    in.spec,  in.heads,
                     in.sequences, q.data(), static_cast<uint16_t*>(moved.data()) + 1,
                     v.data(),     nullptr};
  OpenDevice()->AttentionForward(attention, {out.data(), lse.data(), nullptr});
  ExpectNear(expected.out, out.values(), kRoundedTolerance, "out");
}

}  // namespace
}  // namespace nsa::kernels::grad
