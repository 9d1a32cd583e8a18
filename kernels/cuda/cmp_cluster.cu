#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>

#include "kernels/check.h"
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/elements.h"
#include "kernels/cuda/int8_row.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/paged.h"
#include "kernels/cuda/reduce.h"

namespace nsa::kernels::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kGroups = kThreads / kPageSize;  // of threads that have a token each
constexpr int kKeyStride = kPageSize + 1;      // floats: tokens, and dimensions, meet all banks

struct Args {
  CmpClusterParams params;
  float log_of[kPageSize + 1];  // of sizes, by the host: a device's has other last bits
};

/// A CTA's shared memory.
struct Shared {
  float* keys;        // [head_dim_k, kKeyStride]
  float* means;       // [num_clusters, head_dim_k]; of the whole page at first
  float* distances;   // [kGroups, 64]
  int* nearest;       // [kGroups, 64], then those of the first group alone
  uint32_t* members;  // [num_clusters, 2]: a bit a token
};

/// The page of the pool that CTA (x, head) clusters; −1 where it is one too many.
NSA_DEVICE int64_t FindPage(const CmpClusterParams& p, int64_t index) {
  for (int s = 0; s < p.num_segments; ++s) {
    const PageRange pages = CompletedPages(p.segments[s]);
    if (index < pages.end - pages.first) return p.segments[s].page_table[pages.first + index];
    index -= pages.end - pages.first;
  }
  return -1;
}

NSA_DEVICE int MyToken() { return ThreadIndex() % kPageSize; }
NSA_DEVICE int MyGroup() { return ThreadIndex() / kPageSize; }

/// Squared distance of a token's key and a mean: a chain over dimensions.
NSA_DEVICE float SquaredDistance(const Shared& shared, int dims, int token, const float* mean) {
  float sum = 0;
  NSA_UNROLL_BY(8)
  for (int dim = 0; dim < dims; ++dim) {
    const float difference = shared.keys[dim * kKeyStride + token] - mean[dim];
    sum += difference * difference;
  }
  return sum;
}

/// The token of the largest distance, ties to the lower; each warp finds it by itself. A NaN is
/// never larger, and nothing is larger than a NaN of token 0: as a search from token 0 on.
NSA_DEVICE int Farthest(const float* distances) {
  float best = -Infinity();
  int token = 0;
  for (int i = LaneIndex(); i < kPageSize; i += kWarpSize) {
    float x = distances[i];
    if (x != x) x = i == 0 ? Infinity() : -Infinity();
    if (x > best) best = x, token = i;
  }
  for (int step = kWarpSize / 2; step > 0; step /= 2) {
    const float other = ShuffleXor(best, step);
    const int other_token = ShuffleXor(token, step);
    const bool is_farther = other > best || (other == best && other_token < token);
    if (is_farther) best = other, token = other_token;
  }
  return token;
}

template <typename T>
NSA_DEVICE void LoadKeys(const PagedKv& kv, const std::byte* slot, const Shared& shared) {
  for (int item = ThreadIndex(); item < kv.head_dim_k * kPageSize; item += kThreads) {
    const int dim = item / kPageSize, token = item % kPageSize;
    shared.keys[dim * kKeyStride + token] = LoadKey<T>(kv, slot, dim, token);
  }
}

/// The page's mean into the place of the first cluster's.
NSA_DEVICE void MeanOfPage(const Shared& shared, int dims) {
  for (int dim = ThreadIndex(); dim < dims; dim += kThreads) {
    float sum = 0;
    NSA_UNROLL_BY(8)
    for (int token = 0; token < kPageSize; ++token) sum += shared.keys[dim * kKeyStride + token];
    shared.means[dim] = sum / static_cast<float>(kPageSize);
  }
}

/// Seeds: the token farthest from the page's mean, then each time the one farthest from all seeds.
NSA_DEVICE void Seed(const Shared& shared, int dims, int num_clusters) {
  MeanOfPage(shared, dims);
  SyncThreads();
  float least = Infinity();
  for (int c = 0; c < num_clusters; ++c) {
    if (MyGroup() == 0) {
      const float* from = shared.means + (c < 2 ? 0 : c - 1) * dims;
      const float distance = SquaredDistance(shared, dims, MyToken(), from);
      if (c > 0 && distance < least) least = distance;
      shared.distances[MyToken()] = c == 0 ? distance : least;
    }
    SyncThreads();
    const int token = Farthest(shared.distances);
    for (int dim = ThreadIndex(); dim < dims; dim += kThreads) {
      shared.means[c * dims + dim] = shared.keys[dim * kKeyStride + token];
    }
    SyncThreads();
  }
}

/// The nearest mean of each token, ties to the lower; every group of threads looks at some of them.
NSA_DEVICE void Assign(const Shared& shared, int dims, int num_clusters) {
  float least = Infinity();
  int best = 0;
  for (int c = MyGroup(); c < num_clusters; c += kGroups) {
    const float distance = SquaredDistance(shared, dims, MyToken(), shared.means + c * dims);
    if (distance < least) least = distance, best = c;
  }
  shared.distances[ThreadIndex()] = least;
  shared.nearest[ThreadIndex()] = best;
  SyncThreads();
  if (MyGroup() != 0) return;
  for (int group = 1; group < kGroups; ++group) {
    const int at = group * kPageSize + MyToken();
    const float other = shared.distances[at];
    const bool is_nearer =
        other < least || (other == least && least < Infinity() && shared.nearest[at] < best);
    if (is_nearer) least = other, best = shared.nearest[at];
  }
  for (int c = 0; c < num_clusters; ++c) {
    const uint32_t mine = Ballot(best == c);
    if (LaneIndex() == 0) shared.members[2 * c + WarpIndex()] = mine;
  }
}

NSA_DEVICE int SizeOf(const Shared& shared, int cluster) {
  return BitCount(shared.members[2 * cluster]) + BitCount(shared.members[2 * cluster + 1]);
}

/// One round of Lloyd. A mean is a chain over its tokens; a cluster without tokens keeps its own.
NSA_DEVICE void Improve(const Shared& shared, int dims, int num_clusters) {
  Assign(shared, dims, num_clusters);
  SyncThreads();
  for (int c = WarpIndex(); c < num_clusters; c += kThreads / kWarpSize) {
    const int size = SizeOf(shared, c);
    if (size == 0) continue;
    for (int dim = LaneIndex(); dim < dims; dim += kWarpSize) {
      const float* keys = shared.keys + dim * kKeyStride;
      float sum = 0;
      for (int half = 0; half < 2; ++half) {
        for (uint32_t left = shared.members[2 * c + half]; left != 0; left &= left - 1) {
          sum += keys[half * kWarpSize + LowestBit(left)];
        }
      }
      shared.means[c * dims + dim] = sum / static_cast<float>(size);
    }
  }
  SyncThreads();
}

/// A warp a cluster: its row in the cache's type, and its bias.
NSA_DEVICE void StoreRows(const Args& args, const Shared& shared, std::byte* target) {
  const PagedKv& kv = args.params.kv;
  const int dims = kv.head_dim_k, num_clusters = args.params.num_clusters;
  for (int c = WarpIndex(); c < num_clusters; c += kThreads / kWarpSize) {
    const float* mean = shared.means + c * dims;
    if (LaneIndex() == 0) {
      ElementsAt<float>(target, kv.cmp_bias_offset)[c] = args.log_of[SizeOf(shared, c)];
    }
    if (kv.cmp_dtype == DType::kF32) {
      for (int dim = LaneIndex(); dim < dims; dim += kWarpSize) {
        ElementsAt<float>(target, 0)[dim * num_clusters + c] = mean[dim];
      }
      continue;
    }
    float largest = 0;
    for (int dim = LaneIndex(); dim < dims; dim += kWarpSize) {
      largest = MaxOrNan(largest, Abs(mean[dim]));
    }
    const RowScale scale = ScaleOf(WarpMaxOrNan(largest));
    if (LaneIndex() == 0) ElementsAt<float>(target, kv.cmp_scale_offset)[c] = scale.scale;
    for (int dim = LaneIndex(); dim < (dims + 3) / 4 * 4; dim += kWarpSize) {
      ElementsAt<int8_t>(target, 0)[(dim / 4 * num_clusters + c) * 4 + dim % 4] =
          dim < dims ? RoundToInt8(mean[dim], scale) : int8_t{0};
    }
  }
}

/// CTA (i, g): the i-th page that the call completes, for KV head g.
template <typename T>
NSA_KERNEL(kThreads)
CmpClusterKernel(NSA_ARGS Args args) {
  const PagedKv& kv = args.params.kv;
  const int dims = kv.head_dim_k, num_clusters = args.params.num_clusters;
  const int64_t page = FindPage(args.params, CtaX());
  if (page < 0) return;
  SharedArena arena;
  const Shared shared = {arena.Take<float>(dims * kKeyStride),
                         arena.Take<float>(num_clusters * dims), arena.Take<float>(kThreads),
                         arena.Take<int>(kThreads), arena.Take<uint32_t>(2 * num_clusters)};
  LoadKeys<T>(kv, HeadSlot(kv, page, CtaY()), shared);
  SyncThreads();
  Seed(shared, dims, num_clusters);
  for (int i = 0; i < kClusterIterations; ++i) Improve(shared, dims, num_clusters);
  StoreRows(args, shared, kv.cmp_slots + page * kv.cmp_page_stride + CtaY() * kv.cmp_head_stride);
}

int64_t SharedBytes(int dims, int num_clusters) {
  const auto rounded = [](int64_t words) { return CeilDiv(words, 4) * 16; };
  return rounded(dims * kKeyStride) + rounded(num_clusters * dims) + 2 * rounded(kThreads) +
         rounded(2 * num_clusters);
}

}  // namespace

void CmpCluster(Stream& stream, const CmpClusterParams& params, const SegmentsShape& shape) {
  NSA_CHECK(params.num_clusters >= 1 && kPageSize % params.num_clusters == 0);
  CheckClusterRows(params.kv);
  Args args = {params, {}};
  for (int size = 0; size <= kPageSize; ++size) {
    args.log_of[size] = std::log(static_cast<float>(size));
  }
  // A segment of n rows completes at most n/64 + 1 pages, and at most n.
  const int64_t most_pages =
      std::min(shape.num_rows, shape.num_rows / kPageSize + params.num_segments);
  const LaunchShape launch = {
      .name = "cmp_cluster",
      .grid_x = most_pages,
      .grid_y = params.kv.num_kv_heads,
      .num_threads = kThreads,
      .shared_bytes = SharedBytes(params.kv.head_dim_k, params.num_clusters)};
  WithElementType(params.kv.dtype, [&](auto element) {
    Launch(stream, launch, CmpClusterKernel<decltype(element)>, args);
  });
}

}  // namespace nsa::kernels::cuda
