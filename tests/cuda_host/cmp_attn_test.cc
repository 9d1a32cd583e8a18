#include "kernels/ops/cmp_attn.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <random>
#include <vector>

#include "kernels/cuda/cuda.h"
#include "kernels/reference/reference.h"
#include "tests/cuda_host/cmp_call.h"
#include "tests/cuda_host/orders.h"
#include "tests/kernels/attention_cases.h"

namespace nsa::kernels {
namespace {

/// By the reference, or by the kernels where there is a workspace, of whatever size.
CmpLeft Attend(const AttentionWorld& world, const CmpWanted& wanted,
               const std::vector<AttentionSegment>& segments, std::vector<float>* workspace) {
  CmpLeft left;
  const CmpAttnParams params = CmpParamsOf(world, segments, wanted, left);
  if (workspace == nullptr) {
    reference::CmpAttn(params);
    return left;
  }
  cuda::Stream stream;
  cuda::CmpAttn(stream, params, cuda::ShapeOf(segments.data(), static_cast<int>(segments.size())),
                {workspace->data(), static_cast<int64_t>(workspace->size())});
  return left;
}

std::vector<float> AttendByCuda(const AttentionWorld& world, const CmpWanted& wanted,
                                const std::vector<AttentionSegment>& segments, bool is_split) {
  std::vector<float> workspace(is_split ? 4'000'000 : 0);
  return Attend(world, wanted, segments, &workspace).All();
}

/// Against the reference; with and without splits, and row by row, the same bits.
void ExpectExact(const AttentionWorld& world, const CmpWanted& wanted) {
  const CmpLeft expected = Attend(world, wanted, world.segments(), nullptr);
  std::vector<float> none;
  const CmpLeft actual = Attend(world, wanted, world.segments(), &none);
  ExpectClose(actual, expected, ToleranceOf(world.test_case()));
  const std::vector<float> whole = actual.All();
  EXPECT_TRUE(SameBits(AttendByCuda(world, wanted, world.segments(), true), whole))
      << "splits show";
  for (const int32_t max_rows : {1, 3}) {
    std::vector<AttentionSegment> chunks = CutSegments(world.segments(), max_rows);
    std::shuffle(chunks.begin(), chunks.end(), std::mt19937(5));
    EXPECT_TRUE(SameBits(AttendByCuda(world, wanted, chunks, max_rows == 1), whole))
        << "chunks show";
  }
}

/// The shared cases with few rows; the last sees more than one split where rows are many.
AttentionCase Small(AttentionCase c) {
  c.sequences = {{0, 2}, {30, 3}, {62, 3}, {37, 0}, {511, 2}, {1090, 1}};
  return c;
}

TEST_P(AttentionTest, CudaCmpAttnIsExact) {
  const AttentionWorld world(Small(GetParam()));
  for (const int64_t distance : {-1, 0, 3}) {
    if (GetParam().absolute_rows && distance >= 0) continue;
    SCOPED_TRACE(distance);
    ExpectExact(world, {distance});
    ExpectExact(world, {distance, false});
    ExpectExact(world, {distance, true, false});
  }
}

TEST_P(AttentionTest, CudaCmpAttnHasNoRaces) {
  const AttentionWorld world(Small(GetParam()));
  for (const bool is_split : {true, false}) {
    cuda_host::InEveryOrder([&] { return AttendByCuda(world, {}, world.segments(), is_split); });
  }
}

INSTANTIATE_TEST_SUITE_P(, AttentionTest, testing::ValuesIn(AttentionCases()), CaseName);
INSTANTIATE_TEST_SUITE_P(Rounded, AttentionTest, testing::ValuesIn(RoundedCases()), CaseName);

/// Three splits of compressed rows.
AttentionCase Long() {
  return {.name = "",
          .num_kv_heads = 1,
          .group = 4,
          .head_dim_k = 32,
          .head_dim_v = 32,
          .rotary_dim = 32,
          .length = 8,
          .stride = 4,
          .sequences = {{4094, 3}, {5000, 2}}};
}

TEST(CudaCmpAttnTest, ManySplits) { ExpectExact(AttentionWorld(Long()), {40}); }

TEST(CudaCmpAttnTest, EveryBarrierIsMissed) {
  AttentionCase c = Long();
  c.sequences = {{4999, 1}};
  const AttentionWorld world(c);
  for (const bool is_split : {true, false}) {
    cuda_host::ExpectEveryBarrierIsMissed(
        [&] { return AttendByCuda(world, {}, world.segments(), is_split); });
  }
}

// Values, and their absence, change nothing of the log-sum-exp.
TEST(CudaCmpAttnTest, TheLogSumExpAlone) {
  AttentionCase c = Long();
  const AttentionWorld with_values(c);
  c.compressed_values = false;
  const AttentionWorld without_values(c);
  std::vector<float> workspace(100'000);
  const CmpLeft both = Attend(with_values, {}, with_values.segments(), &workspace);
  const CmpLeft alone = Attend(without_values, {-1, false}, without_values.segments(), &workspace);
  EXPECT_TRUE(SameBits(both.lse, alone.lse));
  EXPECT_TRUE(SameBits(both.scores, alone.scores));
  EXPECT_THAT(alone.out, testing::Each(kUntouched));
}

}  // namespace
}  // namespace nsa::kernels
