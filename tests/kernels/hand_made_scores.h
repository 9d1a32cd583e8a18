#ifndef NSA_TESTS_KERNELS_HAND_MADE_SCORES_H_
#define NSA_TESTS_KERNELS_HAND_MADE_SCORES_H_

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <numeric>
#include <vector>

#include "kernels/ops/cmp_pool.h"
#include "kernels/ops/score_topk.h"
#include "tests/kernels/attention_cases.h"
#include "tests/kernels/score_topk_oracle.h"

namespace nsa::kernels {

/// One query whose window scores are set by hand: key of window i is (score, 0, …), query (1, 0,
/// …).
class HandMade {
 public:
  explicit HandMade(int64_t position, int length = 32, int stride = 16, int sel_block_size = 64)
      : c_{.name = "",
           .num_kv_heads = 1,
           .group = 1,
           .head_dim_k = 16,
           .head_dim_v = 16,
           .rotary_dim = 0,
           .length = length,
           .stride = stride,
           .sel_block_size = sel_block_size},
        cache_(c_, position / kPageSize + 1),
        rope_(0, 1),
        table_(position / kPageSize + 1),
        q_(16, 0.0f) {
    std::iota(table_.begin(), table_.end(), 0);
    q_[0] = 1;
    segment_ = {table_.data(), position, 0, 1};
    query_ = {q_.data(), 16, 1, 1.0f, &segment_, 1, cache_.view(), rope_.view()};
    for (int64_t i = 0; i < NumVisibleWindows(position, length, stride); ++i) SetScore(i, -40);
  }
  void SetScore(int64_t window, float score) {
    const CmpSlot slot = FindCmpSlot(window, c_.length, c_.stride);
    const PagedKv& kv = cache_.view();
    float* keys = reinterpret_cast<float*>(kv.cmp_slots + slot.page_index * kv.cmp_page_stride);
    const int rows = kPageSize / c_.stride;
    for (int dim = 0; dim < 16; ++dim) keys[dim * rows + slot.slot] = dim == 0 ? score : 0.0f;
  }
  /// Window `window` gets a share of `mass` before normalisation.
  void SetMass(int64_t window, double mass) {
    SetScore(window, static_cast<float>(std::log(mass)));
  }

  /// All but where results go.
  ScoreTopkParams MakeParams(const TopkOptions& options) const {
    return Params(c_, query_, options);
  }

  std::vector<int32_t> Choose(Backend& backend, const TopkOptions& options,
                              const float* lse = nullptr) const {
    return ChooseBy([&](const ScoreTopkParams& params) { backend.ScoreTopk(params); }, options,
                    lse);
  }
  /// By run(params).
  template <typename Run>
  std::vector<int32_t> ChooseBy(Run&& run, const TopkOptions& options,
                                const float* lse = nullptr) const {
    ScoreTopkParams params = MakeParams(options);
    params.cmp_lse = lse;
    std::vector<int32_t> selected(options.num_selected_blocks, -99);
    int32_t num_selected = -99;
    params.selected = selected.data();
    params.num_selected = &num_selected;
    run(params);
    EXPECT_THAT(std::vector<int32_t>(selected.begin() + num_selected, selected.end()),
                testing::Each(-1));
    selected.resize(num_selected);
    return selected;
  }

 private:
  AttentionCase c_;
  TestCache cache_;
  TestRope rope_;
  std::vector<int32_t> table_;
  std::vector<float> q_;
  AttentionSegment segment_;
  AttentionQuery query_;
};

}  // namespace nsa::kernels

#endif  // NSA_TESTS_KERNELS_HAND_MADE_SCORES_H_
