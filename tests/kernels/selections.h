#ifndef NSA_TESTS_KERNELS_SELECTIONS_H_
#define NSA_TESTS_KERNELS_SELECTIONS_H_

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <random>
#include <vector>

#include "tests/kernels/attention_cases.h"

/// What sel_attn is tested with, on every backend.
namespace nsa::kernels {

inline constexpr int kMaxSelected = 12;

/// Random rising lists of sel_blocks: some empty, some full, the last block at times partly hidden.
struct Selection {
  std::vector<int32_t> selected;
  std::vector<int32_t> num_selected;

  Selection(const AttentionWorld& world, int sel_block_size, int64_t window_size) {
    const int num_kv_heads = world.test_case().num_kv_heads;
    const int64_t num_lists = int64_t{world.num_rows()} * num_kv_heads;
    selected.assign(num_lists * kMaxSelected, -1);
    num_selected.assign(num_lists, 0);
    std::mt19937 generator(3);
    world.ForEachRow([&](int64_t position, int64_t row) {
      const int64_t num_candidates =
          window_size > 0 ? PageAlignedWindowStart(position, window_size) / sel_block_size
                          : position / sel_block_size + 1;
      for (int head = 0; head < num_kv_heads; ++head) {
        std::vector<int32_t> blocks(num_candidates);
        std::iota(blocks.begin(), blocks.end(), 0);
        std::shuffle(blocks.begin(), blocks.end(), generator);
        const size_t count = std::min<size_t>(blocks.size(), generator() % (kMaxSelected + 1));
        std::sort(blocks.begin(), blocks.begin() + static_cast<int64_t>(count));
        const int64_t index = row * num_kv_heads + head;
        std::copy_n(blocks.begin(), count, selected.begin() + index * kMaxSelected);
        num_selected[index] = static_cast<int32_t>(count);
      }
    });
  }
};

}  // namespace nsa::kernels

#endif  // NSA_TESTS_KERNELS_SELECTIONS_H_
