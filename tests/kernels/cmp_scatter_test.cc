#include "kernels/ops/cmp_scatter.h"

#include "kernels/ops/cmp_pool.h"
#include "kernels/ops/rope_kv_write.h"
#include "kernels/reference/reference.h"
#include "tests/kernels/scatter_world.h"

namespace nsa::kernels {
namespace {

constexpr int64_t kNumTokens = ScatterWorld::kNumTokens;

/// Backend::CmpScatter as something to call.
auto ScatterOf(Backend& backend) {
  return [&backend](const CmpScatterParams& params) { backend.CmpScatter(params); };
}

TEST_P(AttentionTest, CmpScatterEqualsTheReferenceInAnyChunks) {
  ScatterWorld whole(GetParam());
  whole.Scatter(reference::CmpScatter, 0, kNumTokens, 1000);
  for (const int num_threads : {1, 3}) {
    const auto backend = MakeCpuBackend(num_threads);
    for (const int64_t chunk : {int64_t{1}, int64_t{7}, int64_t{64}, kNumTokens}) {
      ScatterWorld world(GetParam());
      for (int64_t t = 0; t < kNumTokens; t += chunk) {
        world.Scatter(ScatterOf(*backend), t, std::min(kNumTokens, t + chunk),
                      chunk == 64 ? 3 : 1000);
      }
      // The CPU gives the reference's bits, and neither writes what no closed window owns.
      EXPECT_TRUE(SameBits(world.cache.cmp_slots(), whole.cache.cmp_slots())) << chunk;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(, AttentionTest, testing::ValuesIn(AttentionCases()), CaseName);

/// Means of keys and of values, scattered, are what cmp_pool writes.
TEST(CmpScatterTest, MeansComeOutAsPooledOnes) {
  for (const bool absolute : {false, true}) {
    for (const auto& [length, stride] : {std::pair{32, 16}, {128, 32}, {64, 64}, {8, 8}}) {
      const AttentionCase c = {.name = "",
                               .num_kv_heads = 1,
                               .rotary_dim = 48,
                               .length = length,
                               .stride = stride,
                               .pooled_keys = PooledKeys::kUnrotated,
                               .absolute_rows = absolute};
      ScatterWorld world(c), pooled(c);
      const std::vector<float> k = RandomFloats(kNumTokens * 64, 6);
      const AttentionSegment all = {world.table.data(), 0, 0, kNumTokens};
      const auto backend = MakeCpuBackend(1);
      backend->RopeKvWrite(
          {k.data(), 64, k.data(), 64, &all, 1, pooled.cache.view(), pooled.rope.view()});
      backend->CmpPool({&all, 1, pooled.cache.view(), pooled.rope.view(), length, stride,
                        PooledKeys::kUnrotated});
      for (size_t i = 0; i < world.x[0].size(); ++i) {
        const int64_t first = static_cast<int64_t>(i) / 64 * stride;
        float sum = 0;
        for (int64_t t = first; t < first + length; ++t) sum += k[t * 64 + i % 64];
        world.x[0][i] = world.x[1][i] = sum / static_cast<float>(length);
      }
      world.Scatter(ScatterOf(*backend), 0, kNumTokens, 1000);
      const auto* actual = reinterpret_cast<const float*>(world.cache.cmp_slots().data());
      const auto* expected = reinterpret_cast<const float*>(pooled.cache.cmp_slots().data());
      for (size_t i = 0; i < world.cache.cmp_slots().size() / sizeof(float); ++i) {
        ASSERT_EQ(std::isnan(actual[i]), std::isnan(expected[i])) << i;
        if (!std::isnan(expected[i])) {
          ASSERT_NEAR(actual[i], expected[i], 2e-6) << i;
        }
      }
    }
  }
}

}  // namespace
}  // namespace nsa::kernels
