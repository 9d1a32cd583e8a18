#ifndef NSA_TESTS_KERNELS_NEW_KV_ROWS_H_
#define NSA_TESTS_KERNELS_NEW_KV_ROWS_H_

#include <algorithm>
#include <cstdint>
#include <limits>
#include <numeric>
#include <random>
#include <vector>

#include "kernels/ops/rope_kv_write.h"
#include "tests/kernels/attention_cases.h"

namespace nsa::kernels {

/// K and V of several sequences' new rows, some not finite, to be written into an empty cache.
struct NewKvRows {
  NewKvRows(const AttentionCase& test_case, const std::vector<SequenceRows>& sequences)
      : c(test_case), rope(c.rotary_dim, 4), table(40) {
    std::iota(table.begin(), table.end(), 0);
    std::shuffle(table.begin(), table.end(), std::mt19937(1));
    int32_t row = 0;
    const int32_t* next = table.data();
    for (const SequenceRows& s : sequences) {
      segments.push_back({next, s.position, row, s.num_rows});
      row += s.num_rows;
      next += (s.position + s.num_rows) / kPageSize + 1;
    }
    k = RandomFloats(row * KStride(), 2);
    v = RandomFloats(row * VStride(), 3);
    k[5] = std::numeric_limits<float>::quiet_NaN();
    v[6] = -std::numeric_limits<float>::infinity();
    v[7] = 1e30f;
    v[8] = 1e-42f;
  }
  int64_t KStride() const { return int64_t{c.num_kv_heads} * c.head_dim_k + 2; }
  int64_t VStride() const { return int64_t{c.num_kv_heads} * c.head_dim_v + 3; }

  TestCache EmptyCache() const { return TestCache(c, static_cast<int64_t>(table.size())); }
  RopeKvWriteParams Params(const std::vector<AttentionSegment>& chunks,
                           const TestCache& cache) const {
    return {k.data(),     KStride(),     v.data(),
            VStride(),    chunks.data(), static_cast<int>(chunks.size()),
            cache.view(), rope.view()};
  }

  AttentionCase c;
  TestRope rope;
  std::vector<int32_t> table;
  std::vector<AttentionSegment> segments;
  std::vector<float> k, v;
};

}  // namespace nsa::kernels

#endif  // NSA_TESTS_KERNELS_NEW_KV_ROWS_H_
