#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "kernels/cuda/cuda.h"
#include "kernels/reference/reference.h"
#include "tests/cuda_host/orders.h"
#include "tests/kernels/gather_world.h"

namespace nsa::kernels {
namespace {

constexpr int64_t kNumTokens = GatherWorld::kNumTokens;

void Cuda(const CmpGatherParams& params) {
  cuda::Stream stream;
  cuda::CmpGather(stream, params);
}

std::vector<AttentionSegment> Chunks(const GatherWorld& world, int64_t chunk) {
  std::vector<AttentionSegment> segments = {world.Segment(0, 0)};
  for (int64_t t = 0; t < kNumTokens; t += chunk) {
    segments.push_back(world.Segment(t, std::min(kNumTokens, t + chunk)));
  }
  return segments;
}

// Bit for bit.
TEST_P(AttentionTest, CudaCmpGatherEqualsTheReferenceInAnyChunks) {
  const GatherWorld world(GetParam());
  for (const bool values : {false, true}) {
    const std::vector<AttentionSegment> whole = {world.Segment(0, kNumTokens)};
    const std::vector<float> expected = world.Gather(reference::CmpGather, whole, values, 10'000);
    EXPECT_TRUE(
        SameBits(cuda_host::InEveryOrder([&] { return world.Gather(Cuda, whole, values, 10'000); }),
                 expected));
    for (const int64_t chunk : {1, 7}) {
      const std::vector<AttentionSegment> chunks = Chunks(world, chunk);
      EXPECT_TRUE(SameBits(world.Gather(Cuda, chunks, values, chunk == 1 ? 10'000 : 5), expected))
          << chunk;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(, AttentionTest, testing::ValuesIn(AttentionCases()), CaseName);

TEST(CudaCmpGatherTest, EveryBarrierIsMissed) {
  const GatherWorld world({.name = "", .num_kv_heads = 1, .head_dim_k = 256, .length = 64});
  const std::vector<AttentionSegment> some = {world.Segment(0, 80)};
  cuda_host::ExpectEveryBarrierIsMissed([&] { return world.Gather(Cuda, some, false, 10'000); });
}

TEST(CudaCmpGatherTest, RefusesMoreRowsThanWindowsClose) {
  const GatherWorld world({.name = ""});
  const AttentionSegment segment = world.Segment(0, 31);
  std::vector<float> y(32 * 64);
  cuda_host::ExpectError([&] {
    Cuda(
        {.rows = {.segments = &segment, .num_segments = 1, .kv = world.cache.view(), .num_rows = 1},
         .position = world.position.data(),
         .y = y.data()});
  });
}

}  // namespace
}  // namespace nsa::kernels
