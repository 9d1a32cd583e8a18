#ifndef NSA_TESTS_KERNELS_CLUSTER_WORLD_H_
#define NSA_TESTS_KERNELS_CLUSTER_WORLD_H_

#include <cstdint>
#include <utility>
#include <vector>

#include "kernels/ops/cmp_cluster.h"
#include "kernels/ops/rope_kv_write.h"
#include "tests/kernels/attention_cases.h"

namespace nsa::kernels {

/// One sequence of tokens in a cache, not clustered yet. Keys are not rotated on their way in, so
/// that what stands in a page is what the test says.
struct ClusterWorld {
  explicit ClusterWorld(const AttentionCase& test_case)
      : ClusterWorld(test_case, Keys(test_case)) {}
  ClusterWorld(const AttentionCase& test_case, std::vector<float> keys)
      : c(test_case), cache(c, 6), table{4, 0, 5, 2, 1}, k(std::move(keys)) {
    const std::vector<float> v = RandomFloats(kNumTokens * c.num_kv_heads * c.head_dim_v, 3);
    const AttentionSegment all = Segment(0, kNumTokens);
    MakeReferenceBackend()->RopeKvWrite({k.data(), int64_t{c.num_kv_heads} * c.head_dim_k, v.data(),
                                         int64_t{c.num_kv_heads} * c.head_dim_v, &all, 1,
                                         cache.view(), TestRope(0, 1).view()});
  }
  static std::vector<float> Keys(const AttentionCase& c) {
    return RandomFloats(kNumTokens * c.num_kv_heads * c.head_dim_k, 2);
  }
  AttentionSegment Segment(int64_t begin, int64_t end) const {
    return {table.data(), begin, 0, static_cast<int32_t>(end - begin)};
  }
  template <typename Run>
  void Cluster(Run&& run, int64_t begin, int64_t end) {
    const AttentionSegment segment = Segment(begin, end);
    run(CmpClusterParams{&segment, 1, cache.view(), c.num_clusters});
  }
  const float* Row(int64_t page, int head) const {
    const PagedKv& kv = cache.view();
    return reinterpret_cast<const float*>(kv.cmp_slots + table[page] * kv.cmp_page_stride +
                                          head * kv.cmp_head_stride);
  }
  float Mean(int64_t page, int head, int cluster, int dim) const {
    return Row(page, head)[dim * c.num_clusters + cluster];
  }
  float Bias(int64_t page, int head, int cluster) const {
    return Row(page, head)[c.head_dim_k * c.num_clusters + cluster];
  }
  const float* Key(int64_t token, int head) const {
    return k.data() + (token * c.num_kv_heads + head) * c.head_dim_k;
  }

  static constexpr int64_t kNumTokens = 300;
  AttentionCase c;
  TestCache cache;
  std::vector<int32_t> table;
  std::vector<float> k;
};

}  // namespace nsa::kernels

#endif  // NSA_TESTS_KERNELS_CLUSTER_WORLD_H_
