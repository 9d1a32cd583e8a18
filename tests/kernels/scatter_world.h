#ifndef NSA_TESTS_KERNELS_SCATTER_WORLD_H_
#define NSA_TESTS_KERNELS_SCATTER_WORLD_H_

#include <algorithm>
#include <cstdint>
#include <vector>

#include "kernels/ops/cmp_pool.h"
#include "kernels/ops/cmp_scatter.h"
#include "tests/kernels/attention_cases.h"

namespace nsa::kernels {

/// A cache whose compressed rows are to be written.
struct ScatterWorld {
  explicit ScatterWorld(const AttentionCase& test_case)
      : c(test_case), rope(c.rotary_dim, 8), cache(c, 6), table{4, 0, 5, 2, 1} {
    const int64_t num_windows = NumVisibleWindows(kNumTokens - 1, c.length, c.stride);
    for (const bool values : {false, true}) {
      x[values] = RandomFloats(num_windows * c.num_kv_heads * head_dim(values), 3 + values);
    }
  }
  int head_dim(bool values) const { return values ? c.head_dim_v : c.head_dim_k; }

  /// Stores the rows of the windows that end in tokens [begin, end).
  template <typename Run>
  void Scatter(Run&& run, int64_t begin, int64_t end, int64_t rows_per_call) {
    const AttentionSegment segment = {table.data(), begin, 0, static_cast<int32_t>(end - begin)};
    const WindowRange closed = ClosedWindows(segment, c.length, c.stride);
    const int64_t num_rows = closed.size() * c.num_kv_heads;
    for (const bool values : {false, true}) {
      if (values && !c.compressed_values) continue;
      const float* rows = x[values].data() + closed.first * c.num_kv_heads * head_dim(values);
      for (int64_t first = 0; first < num_rows; first += rows_per_call) {
        run(CmpScatterParams{.rows = {.segments = &segment,
                                      .num_segments = 1,
                                      .kv = cache.view(),
                                      .length = c.length,
                                      .stride = c.stride,
                                      .values = values,
                                      .first_row = first,
                                      .num_rows = std::min(rows_per_call, num_rows - first)},
                             .rope = rope.view(),
                             .x = rows + first * head_dim(values)});
      }
    }
  }

  static constexpr int64_t kNumTokens = 300;
  AttentionCase c;
  TestRope rope;
  TestCache cache;
  std::vector<int32_t> table;
  std::vector<float> x[2];  // rows of keys and of values of all windows
};

}  // namespace nsa::kernels

#endif  // NSA_TESTS_KERNELS_SCATTER_WORLD_H_
