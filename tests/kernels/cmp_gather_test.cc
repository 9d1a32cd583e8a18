#include "kernels/ops/cmp_gather.h"

#include "kernels/ops/rope_kv_write.h"
#include "tests/kernels/attention_cases.h"

namespace nsa::kernels {
namespace {

constexpr int64_t kNumTokens = 300;

/// One sequence of tokens in a cache, keys not rotated.
struct GatherWorld {
  explicit GatherWorld(const AttentionCase& test_case)
      : c(test_case), cache(c, 6), table{4, 0, 5, 2, 1} {
    k = RandomFloats(kNumTokens * c.num_kv_heads * c.head_dim_k, 2);
    v = RandomFloats(kNumTokens * c.num_kv_heads * c.head_dim_v, 3);
    position = RandomFloats(int64_t{c.length} * std::max(c.head_dim_k, c.head_dim_v), 4);
    const AttentionSegment all = Segment(0, kNumTokens);
    MakeReferenceBackend()->RopeKvWrite({k.data(), int64_t{c.num_kv_heads} * c.head_dim_k, v.data(),
                                         int64_t{c.num_kv_heads} * c.head_dim_v, &all, 1,
                                         cache.view(), TestRope(0, 1).view()});
  }
  AttentionSegment Segment(int64_t begin, int64_t end) const {
    return {table.data(), begin, 0, static_cast<int32_t>(end - begin)};
  }
  int head_dim(bool values) const { return values ? c.head_dim_v : c.head_dim_k; }

  /// Rows of all windows that close with the segments, `rows_per_call` at a time.
  std::vector<float> Gather(Backend& backend, const std::vector<AttentionSegment>& segments,
                            bool values, int64_t rows_per_call) const {
    const int num_segments = static_cast<int>(segments.size());
    const int64_t num_rows =
        c.num_kv_heads * NumClosedWindows(segments.data(), num_segments, c.length, c.stride);
    const int64_t width = int64_t{c.length} * head_dim(values);
    std::vector<float> y(num_rows * width, 12345);
    for (int64_t first = 0; first < num_rows; first += rows_per_call) {
      backend.CmpGather({.rows = {.segments = segments.data(),
                                  .num_segments = num_segments,
                                  .kv = cache.view(),
                                  .length = c.length,
                                  .stride = c.stride,
                                  .values = values,
                                  .first_row = first,
                                  .num_rows = std::min(rows_per_call, num_rows - first)},
                         .position = position.data(),
                         .y = y.data() + first * width});
    }
    return y;
  }

  AttentionCase c;
  TestCache cache;
  std::vector<int32_t> table;
  std::vector<float> k, v, position;
};

TEST_P(AttentionTest, CmpGatherEqualsTheReferenceInAnyChunks) {
  const GatherWorld world(GetParam());
  for (const bool values : {false, true}) {
    const std::vector<float> expected =
        world.Gather(*MakeReferenceBackend(), {world.Segment(0, kNumTokens)}, values, 1000);
    for (const int num_threads : {1, 3}) {
      const auto backend = MakeCpuBackend(num_threads);
      for (const int64_t chunk : {int64_t{1}, int64_t{7}, int64_t{64}, kNumTokens}) {
        std::vector<AttentionSegment> segments = {world.Segment(0, 0)};
        for (int64_t t = 0; t < kNumTokens; t += chunk) {
          segments.push_back(world.Segment(t, std::min(kNumTokens, t + chunk)));
        }
        // The CPU gives the reference's bits.
        EXPECT_TRUE(SameBits(world.Gather(*backend, segments, values, 1000), expected)) << chunk;
        EXPECT_TRUE(SameBits(world.Gather(*backend, segments, values, 3), expected)) << chunk;
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
        world.Gather(*backend, {world.Segment(0, kNumTokens)}, values, 1000);
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
