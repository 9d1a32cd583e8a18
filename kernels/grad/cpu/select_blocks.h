#ifndef NSA_KERNELS_GRAD_CPU_SELECT_BLOCKS_H_
#define NSA_KERNELS_GRAD_CPU_SELECT_BLOCKS_H_

#include <algorithm>
#include <cstdint>
#include <limits>

#include "kernels/grad/grad_attention.h"

namespace nsa::kernels::grad::cpu {

/// Windows that cover a stride of tokens, and strides of a sel_block.
struct StrideCounts {
  explicit StrideCounts(const AttentionSpec& spec)
      : windows(spec.length / spec.stride), per_block(spec.sel_block_size / spec.stride) {}
  int windows;
  int per_block;
};

/// The best of what is offered in rising order of blocks; of equal scores the first.
class BestBlocks {
 public:
  /// `blocks` [capacity] takes them, best first; `scores` [capacity] is for use here.
  BestBlocks(int capacity, int32_t* blocks, float* scores)
      : capacity_(capacity), blocks_(blocks), scores_(scores) {}

  int count() const { return count_; }

  void Offer(int32_t block, float score) {
    // A NaN is never greater.
    if (!(score > threshold_)) return;
    int place = count_ < capacity_ ? count_++ : capacity_ - 1;
    for (; place > 0 && score > scores_[place - 1]; --place) {
      scores_[place] = scores_[place - 1];
      blocks_[place] = blocks_[place - 1];
    }
    scores_[place] = score;
    blocks_[place] = block;
    if (count_ == capacity_) threshold_ = scores_[capacity_ - 1];
  }

 private:
  int capacity_;
  int count_ = 0;
  float threshold_ = -std::numeric_limits<float>::infinity();
  int32_t* blocks_;
  float* scores_;
};

/// The choice of one query (Eq. 11, 12): `masses` [num_candidates·per_block] has the probability of
/// each stride, `scores` room for num_selected_blocks. selected: rising, then −1.
inline void ChooseBlocks(const AttentionSpec& spec, int64_t num_candidates, const float* masses,
                         float* scores, int32_t* selected) {
  const int n = spec.num_selected_blocks;
  int count = 0;
  const auto take = [&](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end && count < n; ++block) {
      selected[count++] = static_cast<int32_t>(block);
    }
  };
  if (num_candidates <= n) {
    take(0, num_candidates);
  } else {
    const int64_t initial = std::min<int64_t>(spec.num_initial_blocks, num_candidates);
    const int64_t local = std::max(initial, num_candidates - spec.num_local_blocks);
    take(0, initial);
    take(local, num_candidates);
    if (count < n) {
      const int per_block = StrideCounts(spec).per_block;
      BestBlocks best(n - count, selected + count, scores);
      for (int64_t block = initial; block < local; ++block) {
        const float* mass = masses + block * per_block;
        float score = mass[0];
        for (int i = 1; i < per_block; ++i) score += mass[i];
        best.Offer(static_cast<int32_t>(block), score);
      }
      count += best.count();
    }
    std::sort(selected, selected + count);
  }
  std::fill(selected + count, selected + n, -1);
}

}  // namespace nsa::kernels::grad::cpu

#endif  // NSA_KERNELS_GRAD_CPU_SELECT_BLOCKS_H_
