#include <gtest/gtest.h>

#include <cstdint>
#include <vector>

#include "kernels/cuda/cuda.h"
#include "kernels/reference/reference.h"
#include "tests/cuda_host/orders.h"
#include "tests/kernels/attention_cases.h"

namespace nsa::kernels {
namespace {

constexpr int64_t kNumTokens = 200;

/// One sequence of tokens in a cache, none pooled yet.
struct PoolWorld {
  explicit PoolWorld(const AttentionCase& test_case)
      : c(test_case), rope(c.rotary_dim, 8), cache(c, 6), table{4, 0, 5, 2, 1} {
    const std::vector<float> k = RandomFloats(kNumTokens * c.num_kv_heads * c.head_dim_k, 2);
    const std::vector<float> v = RandomFloats(kNumTokens * c.num_kv_heads * c.head_dim_v, 3);
    const AttentionSegment all = Segment(0, kNumTokens);
    reference::RopeKvWrite({k.data(), int64_t{c.num_kv_heads} * c.head_dim_k, v.data(),
                            int64_t{c.num_kv_heads} * c.head_dim_v, &all, 1, cache.view(),
                            rope.view()});
  }
  AttentionSegment Segment(int64_t begin, int64_t end) const {
    return {table.data(), begin, 0, static_cast<int32_t>(end - begin)};
  }
  CmpPoolParams Params(const std::vector<AttentionSegment>& segments) const {
    return {segments.data(), static_cast<int>(segments.size()),
            cache.view(),    rope.view(),
            c.length,        c.stride,
            c.pooled_keys};
  }

  AttentionCase c;
  TestRope rope;
  TestCache cache;
  std::vector<int32_t> table;
};

/// The compressed rows of all tokens, which come in segments of `chunk` tokens in one call.
std::vector<std::byte> Pool(const AttentionCase& c, int64_t chunk) {
  const PoolWorld world(c);
  std::vector<AttentionSegment> segments;
  for (int64_t t = 0; t < kNumTokens; t += chunk) {
    segments.push_back(world.Segment(t, std::min(kNumTokens, t + chunk)));
  }
  cuda::Stream stream;
  cuda::CmpPool(stream, world.Params(segments),
                cuda::ShapeOf(segments.data(), static_cast<int>(segments.size())));
  return world.cache.cmp_slots();
}

// Bit for bit, bytes that no closed window owns included.
TEST_P(AttentionTest, CudaCmpPoolEqualsReference) {
  for (const PooledKeys keys : {PooledKeys::kRotated, PooledKeys::kUnrotated}) {
    AttentionCase c = GetParam();
    c.pooled_keys = keys;
    const PoolWorld whole(c);
    reference::CmpPool(whole.Params({whole.Segment(0, kNumTokens)}));
    const std::vector<std::byte> expected = whole.cache.cmp_slots();
    EXPECT_TRUE(SameBits(cuda_host::InEveryOrder([&] { return Pool(c, kNumTokens); }), expected));
    for (const int64_t chunk : {1, 7}) EXPECT_TRUE(SameBits(Pool(c, chunk), expected)) << chunk;
  }
}

INSTANTIATE_TEST_SUITE_P(, AttentionTest, testing::ValuesIn(AttentionCases()), CaseName);

}  // namespace
}  // namespace nsa::kernels
