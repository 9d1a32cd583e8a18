#ifndef NSA_TESTS_KERNELS_GATHER_WORLD_H_
#define NSA_TESTS_KERNELS_GATHER_WORLD_H_

#include <algorithm>
#include <cstdint>
#include <vector>

#include "kernels/ops/cmp_gather.h"
#include "kernels/ops/rope_kv_write.h"
#include "tests/kernels/attention_cases.h"

namespace nsa::kernels {

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
  template <typename Run>
  std::vector<float> Gather(Run&& run, const std::vector<AttentionSegment>& segments, bool values,
                            int64_t rows_per_call) const {
    const int num_segments = static_cast<int>(segments.size());
    const int64_t num_rows =
        c.num_kv_heads * NumClosedWindows(segments.data(), num_segments, c.length, c.stride);
    const int64_t width = int64_t{c.length} * head_dim(values);
    std::vector<float> y(num_rows * width, 12345);
    for (int64_t first = 0; first < num_rows; first += rows_per_call) {
      run(CmpGatherParams{.rows = {.segments = segments.data(),
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

  static constexpr int64_t kNumTokens = 300;
  AttentionCase c;
  TestCache cache;
  std::vector<int32_t> table;
  std::vector<float> k, v, position;
};

}  // namespace nsa::kernels

#endif  // NSA_TESTS_KERNELS_GATHER_WORLD_H_
