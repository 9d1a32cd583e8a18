#include "kernels/ops/cmp_cluster.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>

#include "kernels/check.h"
#include "kernels/cpu/cpu.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/cmp_cluster.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "kernels/cpu/attention-inl.h"

HWY_BEFORE_NAMESPACE();
namespace nsa::kernels::cpu {
namespace HWY_NAMESPACE {

/// The keys of one (page, KV head) and their groups. Distances run over tokens side by side, sums
/// over dimensions side by side, each lane in the reference's order.
class PageClusters {
 public:
  static int64_t NumFloats(int head_dim, int num_clusters) {
    return int64_t{head_dim} * (2 * kPageSize + 2 * num_clusters + 1) + 2 * kPageSize + 16;
  }

  PageClusters(int head_dim, int num_clusters, float* memory)
      : head_dim_(head_dim),
        num_clusters_(num_clusters),
        by_dim_(memory),
        by_token_(by_dim_ + int64_t{head_dim} * kPageSize),
        means_(by_token_ + int64_t{head_dim} * kPageSize),
        sums_(means_ + int64_t{head_dim} * num_clusters),
        mean_(sums_ + int64_t{head_dim} * num_clusters),
        distances_(mean_ + head_dim),
        least_(distances_ + kPageSize) {}

  /// `scales` [64]: null where keys stand as they are.
  template <typename T>
  void Load(const T* keys, const float* scales) {
    const F32Tag d;
    const int lanes = static_cast<int>(hn::Lanes(d));
    for (int i = 0; i < head_dim_ * kPageSize; i += lanes) {
      hn::StoreU(LoadCache(d, keys + i), d, by_dim_ + i);
    }
    if (scales != nullptr) ScaleTokens(scales, 0, kPageSize, head_dim_, by_dim_, kPageSize);
    for (int dim = 0; dim < head_dim_; ++dim) {
      for (int token = 0; token < kPageSize; ++token) {
        by_token_[token * head_dim_ + dim] = by_dim_[dim * kPageSize + token];
      }
    }
  }

  void Seed() {
    std::fill_n(mean_, head_dim_, 0.0f);
    for (int token = 0; token < kPageSize; ++token) AddKey(token, mean_);
    DivideBy(static_cast<float>(kPageSize), mean_, mean_);
    Measure(mean_, distances_);
    CopyKey(Farthest(distances_), means_);
    std::fill_n(least_, kPageSize, std::numeric_limits<float>::infinity());
    for (int c = 1; c < num_clusters_; ++c) {
      Measure(means_ + int64_t{c - 1} * head_dim_, distances_);
      for (int token = 0; token < kPageSize; ++token) {
        least_[token] = distances_[token] < least_[token] ? distances_[token] : least_[token];
      }
      CopyKey(Farthest(least_), means_ + int64_t{c} * head_dim_);
    }
  }

  /// One round of assignment and means.
  void Improve() {
    std::fill_n(least_, kPageSize, std::numeric_limits<float>::infinity());
    std::fill_n(nearest_, kPageSize, 0);
    for (int c = 0; c < num_clusters_; ++c) {
      Measure(means_ + int64_t{c} * head_dim_, distances_);
      for (int token = 0; token < kPageSize; ++token) {
        const bool nearer = distances_[token] < least_[token];
        least_[token] = nearer ? distances_[token] : least_[token];
        nearest_[token] = nearer ? c : nearest_[token];
      }
    }
    std::fill_n(sums_, int64_t{num_clusters_} * head_dim_, 0.0f);
    std::fill_n(sizes_, num_clusters_, 0);
    for (int token = 0; token < kPageSize; ++token) {
      const int c = nearest_[token];
      ++sizes_[c];
      AddKey(token, sums_ + int64_t{c} * head_dim_);
    }
    for (int c = 0; c < num_clusters_; ++c) {
      const int64_t at = int64_t{c} * head_dim_;
      if (sizes_[c] > 0) DivideBy(static_cast<float>(sizes_[c]), sums_ + at, means_ + at);
    }
  }

  /// Writes the means, clusters side by side, and what belongs to each.
  void Store(const PagedKv& kv, std::byte* target) {
    auto* biases = reinterpret_cast<float*>(target + kv.cmp_bias_offset);
    for (int c = 0; c < num_clusters_; ++c) {
      biases[c] = std::log(static_cast<float>(sizes_[c]));
      const float* mean = means_ + int64_t{c} * head_dim_;
      if (kv.cmp_dtype == DType::kInt8) {
        auto* scales = reinterpret_cast<float*>(target + kv.cmp_scale_offset);
        scales[c] = StoreInt8(mean, c, reinterpret_cast<int8_t*>(target));
        continue;
      }
      auto* keys = reinterpret_cast<float*>(target);
      for (int dim = 0; dim < head_dim_; ++dim) keys[dim * num_clusters_ + c] = mean[dim];
    }
  }

 private:
  /// distances[token] = |key − center|².
  void Measure(const float* HWY_RESTRICT center, float* HWY_RESTRICT distances) const {
    const F32Tag d;
    const int lanes = static_cast<int>(hn::Lanes(d));
    for (int token = 0; token < kPageSize; token += 4 * lanes) {
      // Four chains, or as many as a page has vectors.
      hn::Vec<F32Tag> sum[4] = {hn::Zero(d), hn::Zero(d), hn::Zero(d), hn::Zero(d)};
      for (int dim = 0; dim < head_dim_; ++dim) {
        const auto x = hn::Set(d, center[dim]);
        const float* keys = by_dim_ + dim * kPageSize + token;
        for (int v = 0; v < 4; ++v) {
          const auto difference = hn::Sub(hn::LoadU(d, keys + v * lanes), x);
          sum[v] = hn::Add(sum[v], hn::Mul(difference, difference));
        }
      }
      for (int v = 0; v < 4; ++v) hn::StoreU(sum[v], d, distances + token + v * lanes);
    }
  }

  static int Farthest(const float* distances) {
    int best = 0;
    for (int token = 1; token < kPageSize; ++token) {
      if (distances[token] > distances[best]) best = token;
    }
    return best;
  }

  void AddKey(int token, float* HWY_RESTRICT sum) const {
    const float* HWY_RESTRICT key = by_token_ + token * head_dim_;
    const F32Tag d;
    const int lanes = static_cast<int>(hn::Lanes(d));
    int dim = 0;
    for (; dim + lanes <= head_dim_; dim += lanes) {
      hn::StoreU(hn::Add(hn::LoadU(d, sum + dim), hn::LoadU(d, key + dim)), d, sum + dim);
    }
    for (; dim < head_dim_; ++dim) sum[dim] += key[dim];
  }

  /// Row c in fours of dimensions; returns its scale.
  float StoreInt8(const float* mean, int c, int8_t* keys) {
    auto* row = reinterpret_cast<int8_t*>(sums_);  // no longer needed
    const float scale = QuantiseRow(mean, head_dim_, row);
    for (int dim = head_dim_; dim % 4 != 0; ++dim) row[dim] = 0;
    for (int dim = 0; dim < head_dim_; dim += 4) {
      std::memcpy(keys + (int64_t{dim / 4} * num_clusters_ + c) * 4, row + dim, 4);
    }
    return scale;
  }

  void DivideBy(float divisor, const float* from, float* to) const {
    for (int dim = 0; dim < head_dim_; ++dim) to[dim] = from[dim] / divisor;
  }

  void CopyKey(int token, float* to) const {
    std::copy_n(by_token_ + token * head_dim_, head_dim_, to);
  }

  int head_dim_;
  int num_clusters_;
  float* by_dim_;     // [head_dim, 64]
  float* by_token_;   // [64, head_dim]
  float* means_;      // [num_clusters, head_dim]
  float* sums_;       // [num_clusters, head_dim]
  float* mean_;       // [head_dim]
  float* distances_;  // [64]
  float* least_;      // [64]
  int nearest_[kPageSize] = {};
  int sizes_[kPageSize] = {};
};

void ClusterPage(const CmpClusterParams& params, int32_t page, int kv_head, Scratch& scratch) {
  const PagedKv& kv = params.kv;
  const auto size =
      static_cast<size_t>(PageClusters::NumFloats(kv.head_dim_k, params.num_clusters));
  PageClusters clusters(kv.head_dim_k, params.num_clusters, scratch.Get<float>(size));
  const std::byte* slot = kv.slots + page * kv.page_stride + kv_head * kv.head_stride;
  const auto* scales =
      kv.scale_offset < 0 ? nullptr : reinterpret_cast<const float*>(slot + kv.scale_offset);
  WithCacheType(kv.dtype,
                [&]<typename T>(T) { clusters.Load(reinterpret_cast<const T*>(slot), scales); });
  clusters.Seed();
  for (int i = 0; i < kClusterIterations; ++i) clusters.Improve();
  std::byte* target = kv.cmp_slots + page * kv.cmp_page_stride + kv_head * kv.cmp_head_stride;
  clusters.Store(kv, target);
}

}  // namespace HWY_NAMESPACE
}  // namespace nsa::kernels::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace nsa::kernels::cpu {
namespace {
HWY_EXPORT(ClusterPage);
}  // namespace

void CmpCluster(Context& context, const CmpClusterParams& params) {
  NSA_CHECK(params.num_clusters >= 1 && kPageSize % params.num_clusters == 0);
  CheckClusterRows(params.kv);
  const ListScope scope(context);
  List<int32_t> pages(scope.memory());
  for (int s = 0; s < params.num_segments; ++s) {
    const PageRange range = CompletedPages(params.segments[s]);
    for (int64_t page = range.first; page < range.end; ++page) {
      pages.push_back(params.segments[s].page_table[page]);
    }
  }
  if (pages.empty()) return;
  const int num_kv_heads = params.kv.num_kv_heads;
  context.pool.ParallelFor(static_cast<int64_t>(pages.size()) * num_kv_heads,
                           [&](int64_t index, int worker) {
                             HWY_DYNAMIC_DISPATCH(ClusterPage)
                             (params, pages[index / num_kv_heads],
                              static_cast<int>(index % num_kv_heads), context.worker[worker]);
                           });
}

}  // namespace nsa::kernels::cpu
#endif  // HWY_ONCE
