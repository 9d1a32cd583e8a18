#include "kernels/ops/cmp_cluster.h"

#include "kernels/ops/score_topk.h"
#include "kernels/reference/reference.h"
#include "tests/kernels/cluster_world.h"

namespace nsa::kernels {
namespace {

constexpr int64_t kNumTokens = ClusterWorld::kNumTokens;

/// Backend::CmpCluster as something to call.
auto ClusterOf(Backend& backend) {
  return [&backend](const CmpClusterParams& params) { backend.CmpCluster(params); };
}

TEST_P(AttentionTest, ClustersInChunksEqualOneCallOfTheReference) {
  ClusterWorld whole(GetParam());
  whole.Cluster(reference::CmpCluster, 0, kNumTokens);
  for (const int num_threads : {1, 3}) {
    const auto backend = MakeCpuBackend(num_threads);
    for (const int64_t chunk : {int64_t{1}, int64_t{7}, int64_t{64}, kNumTokens}) {
      ClusterWorld world(GetParam());
      for (int64_t t = 0; t < kNumTokens; t += chunk) {
        world.Cluster(ClusterOf(*backend), t, std::min(kNumTokens, t + chunk));
      }
      EXPECT_TRUE(SameBits(world.cache.cmp_slots(), whole.cache.cmp_slots())) << chunk;
    }
  }
  ForEachTarget([&] {
    ClusterWorld world(GetParam());
    world.Cluster(ClusterOf(*MakeCpuBackend(2)), 0, kNumTokens);
    EXPECT_TRUE(SameBits(world.cache.cmp_slots(), whole.cache.cmp_slots()));
  });
}

INSTANTIATE_TEST_SUITE_P(, AttentionTest, testing::ValuesIn(ClusterCases()), CaseName);

TEST(CmpClusterTest, OnlyFullPagesAreWritten) {
  ClusterWorld world({.name = "", .num_clusters = 4});
  const auto backend = MakeCpuBackend(1);
  world.Cluster(ClusterOf(*backend), 0, 63);
  EXPECT_TRUE(std::isnan(world.Mean(0, 0, 0, 0)));
  world.Cluster(ClusterOf(*backend), 63, 64);
  EXPECT_TRUE(std::isfinite(world.Mean(0, 0, 0, 0)));
  world.Cluster(ClusterOf(*backend), 64, kNumTokens);
  EXPECT_TRUE(std::isfinite(world.Mean(3, 1, 3, 0)));
  EXPECT_TRUE(std::isnan(world.Mean(4, 0, 0, 0)));
}

/// The sizes say how many tokens each row stands for, and the rows' weighted mean is the page's.
TEST(CmpClusterTest, ClustersPartitionThePage) {
  ClusterWorld world({.name = "", .num_clusters = 8});
  world.Cluster(ClusterOf(*MakeCpuBackend(1)), 0, kNumTokens);
  for (int64_t page = 0; page < 4; ++page) {
    double size = 0;
    for (int c = 0; c < 8; ++c) size += std::exp(world.Bias(page, 1, c));
    EXPECT_NEAR(size, 64, 1e-4);
    for (int dim = 0; dim < 64; ++dim) {
      double mean = 0, expected = 0;
      for (int c = 0; c < 8; ++c) {
        mean += std::exp(world.Bias(page, 1, c)) * world.Mean(page, 1, c, dim) / 64;
      }
      for (int64_t t = page * 64; t < page * 64 + 64; ++t) expected += world.Key(t, 1)[dim] / 64;
      EXPECT_NEAR(mean, expected, 1e-5);
    }
  }
}

/// The case that clusters are for: one key unlike its page has a row of its own.
TEST(CmpClusterTest, AKeyUnlikeItsPageHasARowOfItsOwn) {
  const AttentionCase c = {.name = "", .num_clusters = 4};
  std::vector<float> keys = ClusterWorld::Keys(c);
  for (float& x : keys) x *= 0.1f;
  const int64_t needle = 64 + 37;
  float* key = keys.data() + (needle * c.num_kv_heads + 1) * c.head_dim_k;
  for (int dim = 0; dim < 64; ++dim) key[dim] = dim % 3 == 0 ? 3.0f : -1.0f;
  ClusterWorld world(c, keys);
  world.Cluster(ClusterOf(*MakeCpuBackend(1)), 0, kNumTokens);
  EXPECT_EQ(world.Bias(1, 1, 0), 0);  // log 1, and the first seed
  for (int dim = 0; dim < 64; ++dim) EXPECT_EQ(world.Mean(1, 1, 0, dim), key[dim]);
}

/// Groups that are far apart are found, each with its mean and size.
TEST(CmpClusterTest, FindsPlantedGroups) {
  const AttentionCase c = {.name = "", .num_kv_heads = 1, .num_clusters = 4};
  std::vector<float> keys = ClusterWorld::Keys(c);
  const int sizes[] = {5, 9, 20, 30};
  std::vector<int> group_of(64);
  for (int i = 0, g = 0, left = sizes[0]; i < 64; ++i, --left) {
    if (left == 0) left = sizes[++g];
    group_of[i * 37 % 64] = g;
  }
  std::vector<std::vector<double>> means(4, std::vector<double>(64, 0.0));
  for (int t = 0; t < 64; ++t) {
    for (int dim = 0; dim < 64; ++dim) {
      float& x = keys[t * 64 + dim];
      x = 0.01f * x + (dim % 4 == group_of[t] ? 1.0f : 0.0f);
      means[group_of[t]][dim] += static_cast<double>(x) / sizes[group_of[t]];
    }
  }
  ClusterWorld world(c, keys);
  world.Cluster(ClusterOf(*MakeCpuBackend(1)), 0, kNumTokens);
  for (int cluster = 0; cluster < 4; ++cluster) {
    int g = 0;
    while (g < 3 && world.Mean(0, 0, cluster, g) < 0.5f) ++g;
    EXPECT_NEAR(std::exp(world.Bias(0, 0, cluster)), sizes[g], 1e-4);
    for (int dim = 0; dim < 64; ++dim) {
      EXPECT_NEAR(world.Mean(0, 0, cluster, dim), means[g][dim], 1e-5);
    }
  }
}

/// A page of one repeated key leaves groups empty: they weigh nothing, and nothing is NaN.
TEST(CmpClusterTest, EmptyGroupsWeighNothing) {
  const AttentionCase c = {.name = "", .num_kv_heads = 1, .num_clusters = 4};
  ClusterWorld world(c, std::vector<float>(kNumTokens * 64, 0.5f));
  world.Cluster(ClusterOf(*MakeCpuBackend(1)), 0, kNumTokens);
  EXPECT_NEAR(world.Bias(0, 0, 0), std::log(64.0), 1e-6);
  for (int cluster = 1; cluster < 4; ++cluster) {
    EXPECT_EQ(world.Bias(0, 0, cluster), -std::numeric_limits<float>::infinity());
    EXPECT_EQ(world.Mean(0, 0, cluster, 7), 0.5f);
  }
}

/// Pages of one key each are scored by that key: the empty groups' −inf does no harm.
TEST(CmpClusterTest, EmptyGroupsDoNotDisturbScores) {
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16, DType::kInt8}) {
    for (const int num_clusters : {4, 8, 32}) {
      const AttentionCase c = {.name = "",
                               .dtype = dtype,
                               .num_kv_heads = 1,
                               .group = 1,
                               .rotary_dim = 0,
                               .num_clusters = num_clusters};
      std::vector<float> keys(kNumTokens * 64);
      const float of_page[] = {0.25f, 0.75f, 0.5f, 2.0f, 2.0f};
      for (size_t i = 0; i < keys.size(); ++i) keys[i] = of_page[i / (64 * 64)];
      ClusterWorld world(c, keys);
      const std::vector<float> q(64, 1.0f);
      const TestRope rope(0, 1);
      const AttentionSegment last = world.Segment(kNumTokens - 1, kNumTokens);
      ForEachTarget([&] {
        const auto backend = MakeCpuBackend(1);
        world.Cluster(ClusterOf(*backend), 0, kNumTokens);
        std::vector<int32_t> selected(2, -99);
        int32_t num_selected = -99;
        ScoreTopkParams params;
        params.query = {q.data(), 64, 1, 0.125f, &last, 1, world.cache.view(), rope.view()};
        params.num_clusters = num_clusters;
        params.num_selected_blocks = 2;
        params.num_initial_blocks = 0;
        params.window_size = 64;  // pages 3 and 4
        params.selected = selected.data();
        params.num_selected = &num_selected;
        backend->ScoreTopk(params);
        EXPECT_EQ(num_selected, 2);
        EXPECT_EQ(selected, (std::vector<int32_t>{1, 2}));
      });
    }
  }
}

}  // namespace
}  // namespace nsa::kernels
