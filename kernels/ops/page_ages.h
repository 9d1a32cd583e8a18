#ifndef NSA_KERNELS_OPS_PAGE_AGES_H_
#define NSA_KERNELS_OPS_PAGE_AGES_H_

#include <cstdint>

#include "kernels/ops/attention.h"

namespace nsa::kernels {

/// How far behind its query a selected page stood, in classes: class 0 is the query's own page,
/// class i ≥ 1 holds distances of 2^(i−1) to 2^i − 1 pages, the last class all beyond.
inline constexpr int kNumPageAges = 16;

constexpr int PageAge(int64_t distance) {
  int age = 0;
  while (age < kNumPageAges - 1 && static_cast<uint64_t>(distance) >> age > 0) ++age;
  return age;
}

/// Age of a selected block, by the page that it begins in, for the query at `position`.
constexpr int BlockAge(int64_t position, int32_t block, int sel_block_size) {
  return PageAge(position / kPageSize - int64_t{block} * sel_block_size / kPageSize);
}

/// Counts by age what score_topk selected for the segments' rows: which pages a cache would miss if
/// it kept the youngest alone.
struct PageAgesParams {
  const AttentionSegment* segments = nullptr;  // [num_segments]
  int num_segments = 0;
  int num_kv_heads = 0;
  int sel_block_size = 64;
  int num_selected_blocks = 16;           // n of score_topk
  const int32_t* selected = nullptr;      // [num_rows, num_kv_heads, num_selected_blocks]
  const int32_t* num_selected = nullptr;  // [num_rows, num_kv_heads]
  int64_t* ages = nullptr;                // [kNumPageAges], added to
};

}  // namespace nsa::kernels

#endif  // NSA_KERNELS_OPS_PAGE_AGES_H_
