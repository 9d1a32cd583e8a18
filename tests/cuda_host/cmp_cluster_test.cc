#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

#include "kernels/cuda/cuda.h"
#include "kernels/reference/reference.h"
#include "tests/cuda_host/orders.h"
#include "tests/kernels/cluster_world.h"

namespace nsa::kernels {
namespace {

constexpr int64_t kNumTokens = ClusterWorld::kNumTokens;

void Cuda(const CmpClusterParams& params) {
  cuda::Stream stream;
  cuda::CmpCluster(stream, params, cuda::ShapeOf(params.segments, params.num_segments));
}

/// The compressed rows of all tokens, which come in calls of `chunk` tokens.
std::vector<std::byte> Cluster(const AttentionCase& c, const std::vector<float>& keys,
                               int64_t chunk) {
  ClusterWorld world(c, keys);
  for (int64_t t = 0; t < kNumTokens; t += chunk) {
    world.Cluster(Cuda, t, std::min(kNumTokens, t + chunk));
  }
  return world.cache.cmp_slots();
}

std::vector<std::byte> ByReference(const AttentionCase& c, const std::vector<float>& keys) {
  ClusterWorld world(c, keys);
  world.Cluster(reference::CmpCluster, 0, kNumTokens);
  return world.cache.cmp_slots();
}

// Bit for bit, bytes that no full page owns included.
TEST_P(AttentionTest, CudaCmpClusterEqualsTheReferenceInAnyChunks) {
  const AttentionCase& c = GetParam();
  const std::vector<float> keys = ClusterWorld::Keys(c);
  const std::vector<std::byte> expected = ByReference(c, keys);
  EXPECT_TRUE(
      SameBits(cuda_host::InEveryOrder([&] { return Cluster(c, keys, kNumTokens); }), expected));
  for (const int64_t chunk : {7, 64}) EXPECT_TRUE(SameBits(Cluster(c, keys, chunk), expected));
}

INSTANTIATE_TEST_SUITE_P(, AttentionTest, testing::ValuesIn(ClusterCases()), CaseName);

// All segments in one call, of which most complete no page.
TEST(CudaCmpClusterTest, FindsThePagesOfManySegments) {
  const AttentionCase c = {.name = "", .num_clusters = 4};
  const ClusterWorld world(c);
  std::vector<AttentionSegment> segments;
  for (int64_t t = 0; t < kNumTokens; t += 9) {
    segments.push_back(world.Segment(t, std::min(kNumTokens, t + 9)));
  }
  segments.insert(segments.begin() + 3, world.Segment(64, 64));
  Cuda({segments.data(), static_cast<int>(segments.size()), world.cache.view(), 4});
  EXPECT_TRUE(SameBits(world.cache.cmp_slots(), ByReference(c, world.k)));
}

// Clusters without tokens, and ties everywhere.
TEST(CudaCmpClusterTest, RepeatedKeysEqualTheReference) {
  const AttentionCase c = {.name = "", .num_kv_heads = 1, .num_clusters = 16};
  std::vector<float> keys(kNumTokens * 64);
  for (size_t i = 0; i < keys.size(); ++i) keys[i] = static_cast<float>(i / 64 % 3);
  EXPECT_TRUE(SameBits(Cluster(c, keys, kNumTokens), ByReference(c, keys)));
}

// Keys that are not finite leave the other pages and heads alone, and end.
TEST(CudaCmpClusterTest, WildKeysStayInTheirPage) {
  const AttentionCase c = {.name = "", .num_clusters = 8};
  ClusterWorld tame(c);
  tame.Cluster(Cuda, 0, kNumTokens);
  for (const float wild :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(), 1e30f}) {
    std::vector<float> keys = tame.k;
    keys[(70 * c.num_kv_heads + 1) * c.head_dim_k + 5] = wild;  // page 1, head 1
    ClusterWorld world(c, std::move(keys));
    world.Cluster(Cuda, 0, kNumTokens);
    for (int64_t page = 0; page < kNumTokens / kPageSize; ++page) {
      for (int head = 0; head < c.num_kv_heads; ++head) {
        if (page == 1 && head == 1) continue;
        for (int i = 0; i < 8 * c.head_dim_k; ++i) {
          ASSERT_EQ(world.Row(page, head)[i], tame.Row(page, head)[i]);
        }
      }
    }
  }
}

TEST(CudaCmpClusterTest, EveryBarrierIsMissed) {
  const AttentionCase c = {.name = "", .num_kv_heads = 1, .num_clusters = 8};
  const std::vector<float> keys = ClusterWorld::Keys(c);
  cuda_host::ExpectEveryBarrierIsMissed([&] { return Cluster(c, keys, kNumTokens); });
}

}  // namespace
}  // namespace nsa::kernels
