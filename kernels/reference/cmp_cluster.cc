#include "kernels/ops/cmp_cluster.h"

#include <array>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/check.h"
#include "kernels/int8_rows.h"
#include "kernels/reference/paged_attention.h"
#include "kernels/reference/reference.h"

namespace nsa::kernels::reference {
namespace {

using Vector = std::vector<float>;
using Distances = std::array<float, kPageSize>;

float SquaredDistance(const Vector& a, const Vector& b) {
  float sum = 0;
  for (size_t dim = 0; dim < a.size(); ++dim) {
    const float difference = a[dim] - b[dim];
    sum += difference * difference;
  }
  return sum;
}

int Farthest(const Distances& distances) {
  int best = 0;
  for (int token = 1; token < kPageSize; ++token) {
    if (distances[token] > distances[best]) best = token;
  }
  return best;
}

std::vector<Vector> Seeds(const std::vector<Vector>& keys, int num_clusters) {
  Vector mean(keys[0].size(), 0.0f);
  for (size_t dim = 0; dim < mean.size(); ++dim) {
    for (const Vector& key : keys) mean[dim] += key[dim];
    mean[dim] /= static_cast<float>(kPageSize);
  }
  Distances distances;
  for (int token = 0; token < kPageSize; ++token) {
    distances[token] = SquaredDistance(keys[token], mean);
  }
  std::vector<Vector> seeds = {keys[Farthest(distances)]};
  distances.fill(std::numeric_limits<float>::infinity());
  while (static_cast<int>(seeds.size()) < num_clusters) {
    for (int token = 0; token < kPageSize; ++token) {
      const float distance = SquaredDistance(keys[token], seeds.back());
      if (distance < distances[token]) distances[token] = distance;
    }
    seeds.push_back(keys[Farthest(distances)]);
  }
  return seeds;
}

int Nearest(const Vector& key, const std::vector<Vector>& means) {
  int best = 0;
  float least = std::numeric_limits<float>::infinity();
  for (size_t c = 0; c < means.size(); ++c) {
    const float distance = SquaredDistance(key, means[c]);
    if (!(distance < least)) continue;
    least = distance;
    best = static_cast<int>(c);
  }
  return best;
}

/// One round of Lloyd; gives the sizes.
std::vector<int> Improve(const std::vector<Vector>& keys, std::vector<Vector>& means) {
  std::vector<int> sizes(means.size(), 0);
  std::vector<Vector> sums(means.size(), Vector(keys[0].size(), 0.0f));
  for (const Vector& key : keys) {
    const int c = Nearest(key, means);
    ++sizes[c];
    for (size_t dim = 0; dim < key.size(); ++dim) sums[c][dim] += key[dim];
  }
  for (size_t c = 0; c < means.size(); ++c) {
    if (sizes[c] == 0) continue;
    for (float& x : sums[c]) x /= static_cast<float>(sizes[c]);
    means[c] = sums[c];
  }
  return sizes;
}

/// Writes row c of a page in the cache's type.
void StoreMean(const PagedKv& kv, const Vector& mean, int num_clusters, int c, std::byte* target) {
  const PagedRows rows = CmpRows(kv, kPageSize / num_clusters);
  if (kv.cmp_dtype == DType::kF32) {
    for (int dim = 0; dim < kv.head_dim_k; ++dim) {
      StoreElement(DType::kF32, target, rows.KeyIndex(dim, c), mean[dim]);
    }
    return;
  }
  const Int8RowScale scale(LargestMagnitude(mean));
  StoreElement(DType::kF32, target + kv.cmp_scale_offset, c, scale.scale);
  for (int dim = 0; dim < (kv.head_dim_k + 3) / 4 * 4; ++dim) {
    const bool is_zero = dim >= kv.head_dim_k || scale.inverse == 0;
    const float q = is_zero ? 0.0f : std::nearbyint(mean[dim] * scale.inverse);
    target[rows.KeyIndex(dim, c)] = static_cast<std::byte>(static_cast<int8_t>(q));
  }
}

void ClusterPage(const CmpClusterParams& params, int32_t page, int kv_head) {
  const PagedKv& kv = params.kv;
  const PagedRows rows = TokenRows(kv);
  std::vector<Vector> keys(kPageSize, Vector(kv.head_dim_k));
  for (int token = 0; token < kPageSize; ++token) {
    for (int dim = 0; dim < kv.head_dim_k; ++dim) {
      keys[token][dim] = rows.Key(page, kv_head, dim, token);
    }
  }
  std::vector<Vector> means = Seeds(keys, params.num_clusters);
  std::vector<int> sizes;
  for (int i = 0; i < kClusterIterations; ++i) sizes = Improve(keys, means);
  std::byte* target = kv.cmp_slots + page * kv.cmp_page_stride + kv_head * kv.cmp_head_stride;
  for (int c = 0; c < params.num_clusters; ++c) {
    StoreMean(kv, means[c], params.num_clusters, c, target);
    StoreElement(DType::kF32, target + kv.cmp_bias_offset, c,
                 std::log(static_cast<float>(sizes[c])));
  }
}

}  // namespace

void CmpCluster(const CmpClusterParams& params) {
  NSA_CHECK(params.num_clusters >= 1 && kPageSize % params.num_clusters == 0);
  CheckClusterRows(params.kv);
  for (int s = 0; s < params.num_segments; ++s) {
    const PageRange pages = CompletedPages(params.segments[s]);
    for (int64_t page = pages.first; page < pages.end; ++page) {
      for (int head = 0; head < params.kv.num_kv_heads; ++head) {
        ClusterPage(params, params.segments[s].page_table[page], head);
      }
    }
  }
}

}  // namespace nsa::kernels::reference
