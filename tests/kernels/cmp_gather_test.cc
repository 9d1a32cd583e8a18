#include "kernels/ops/cmp_gather.h"

#include "kernels/reference/reference.h"
#include "tests/kernels/gather_world.h"

namespace nsa::kernels {
namespace {

constexpr int64_t kNumTokens = GatherWorld::kNumTokens;

/// Backend::CmpGather as something to call.
auto GatherOf(Backend& backend) {
  return [&backend](const CmpGatherParams& params) { backend.CmpGather(params); };
}

TEST_P(AttentionTest, CmpGatherEqualsTheReferenceInAnyChunks) {
  const GatherWorld world(GetParam());
  for (const bool values : {false, true}) {
    const std::vector<float> expected =
        world.Gather(reference::CmpGather, {world.Segment(0, kNumTokens)}, values, 1000);
    for (const int num_threads : {1, 3}) {
      const auto backend = MakeCpuBackend(num_threads);
      for (const int64_t chunk : {int64_t{1}, int64_t{7}, int64_t{64}, kNumTokens}) {
        std::vector<AttentionSegment> segments = {world.Segment(0, 0)};
        for (int64_t t = 0; t < kNumTokens; t += chunk) {
          segments.push_back(world.Segment(t, std::min(kNumTokens, t + chunk)));
        }
        // The CPU gives the reference's bits.
        EXPECT_TRUE(SameBits(world.Gather(GatherOf(*backend), segments, values, 1000), expected))
            << chunk;
        EXPECT_TRUE(SameBits(world.Gather(GatherOf(*backend), segments, values, 3), expected))
            << chunk;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(, AttentionTest, testing::ValuesIn(AttentionCases()), CaseName);

TEST(CmpGatherTest, RowsAreTokensPlusTheirPlace) {
  const GatherWorld world({.name = "", .num_kv_heads = 2, .head_dim_k = 8, .head_dim_v = 4});
  const auto backend = MakeCpuBackend(2);
  for (const bool values : {false, true}) {
    const int dim = world.head_dim(values);
    const std::vector<float>& x = values ? world.v : world.k;
    const std::vector<float> y =
        world.Gather(GatherOf(*backend), {world.Segment(0, kNumTokens)}, values, 1000);
    ASSERT_EQ(y.size(), static_cast<size_t>(17 * 2 * 32 * dim));  // (300 − 32)/16 + 1 windows
    for (int64_t window = 0; window < 17; ++window) {
      for (int head = 0; head < 2; ++head) {
        for (int64_t i = 0; i < 32 * dim; ++i) {
          const int64_t token = window * 16 + i / dim;
          ASSERT_EQ(y[(window * 2 + head) * 32 * dim + i],
                    x[(token * 2 + head) * dim + i % dim] + world.position[i]);
        }
      }
    }
  }
}

}  // namespace
}  // namespace nsa::kernels
