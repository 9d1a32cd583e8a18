#ifndef NSA_TESTS_KERNELS_SELECTED_LISTS_H_
#define NSA_TESTS_KERNELS_SELECTED_LISTS_H_

#include <cstdint>
#include <numeric>
#include <random>
#include <utility>
#include <vector>

#include "kernels/ops/page_ages.h"
#include "tests/kernels/attention_cases.h"

namespace nsa::kernels {

/// Lists such as score_topk leaves for the rows of several sequences, of every length from 0 on.
struct SelectedLists {
  explicit SelectedLists(int block_size) : sel_block_size(block_size) {
    constexpr std::pair<int64_t, int32_t> kSequences[] = {
        {0, 70}, {500, 90}, {37, 0}, {4'000'000, 3}, {65'535, 2}};
    for (const auto& [position, count] : kSequences) {
      segments.push_back({nullptr, position, num_rows, count});
      num_rows += count;
    }
    std::mt19937 random(1);
    selected.assign(int64_t{num_rows} * kHeads * kNumBlocks, -1);
    num_selected.assign(int64_t{num_rows} * kHeads, 0);
    for (const AttentionSegment& s : segments) {
      for (int64_t list = s.row_begin * kHeads; list < (s.row_begin + s.num_rows) * kHeads;
           ++list) {
        const int64_t position = s.position + list / kHeads - s.row_begin;
        num_selected[list] = static_cast<int32_t>(random() % (kNumBlocks + 1));
        for (int32_t b = 0; b < num_selected[list]; ++b) {
          selected[list * kNumBlocks + b] =
              static_cast<int32_t>(random() % (position / sel_block_size + 1));
        }
      }
    }
  }
  int64_t NumSelected() const {
    return std::accumulate(num_selected.begin(), num_selected.end(), int64_t{0});
  }
  /// What count(params) adds to zeros.
  template <typename Run>
  std::vector<int64_t> Count(const std::vector<AttentionSegment>& chunks, Run&& count) const {
    std::vector<int64_t> ages(kNumPageAges, 0);
    count(PageAgesParams{.segments = chunks.data(),
                         .num_segments = static_cast<int>(chunks.size()),
                         .num_kv_heads = kHeads,
                         .sel_block_size = sel_block_size,
                         .num_selected_blocks = kNumBlocks,
                         .selected = selected.data(),
                         .num_selected = num_selected.data(),
                         .ages = ages.data()});
    return ages;
  }

  static constexpr int kHeads = 3;
  static constexpr int kNumBlocks = 16;
  int sel_block_size;
  int32_t num_rows = 0;
  std::vector<AttentionSegment> segments;
  std::vector<int32_t> selected, num_selected;
};

}  // namespace nsa::kernels

#endif  // NSA_TESTS_KERNELS_SELECTED_LISTS_H_
