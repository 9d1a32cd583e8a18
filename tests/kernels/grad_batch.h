#ifndef NSA_TESTS_KERNELS_GRAD_BATCH_H_
#define NSA_TESTS_KERNELS_GRAD_BATCH_H_

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <ostream>
#include <random>
#include <string>
#include <vector>

#include "kernels/grad/grad_attention.h"

/// Batches that the tests of kernels/grad share: random tensors in float, the same in double.
namespace nsa::kernels::grad {

struct GradCase {
  std::string name;
  Branch branch = Branch::kWindow;
  std::vector<int64_t> lengths;
  int group = 4;
  int num_kv_heads = 2;
  int head_dim_k = 32;
  int head_dim_v = 48;
  AttentionSpec spec = {};
};

inline void PrintTo(const GradCase& c, std::ostream* os) { *os << c.name; }

inline std::vector<double> RandomDoubles(int64_t count, uint32_t seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  std::vector<double> values(static_cast<size_t>(count));
  // Of float's precision, so that both types have the same numbers.
  for (double& x : values) x = normal(generator);
  return values;
}

template <typename T>
std::vector<T> As(const std::vector<double>& values) {
  return std::vector<T>(values.begin(), values.end());
}

/// All tensors of one case in T.
template <typename T>
class GradBatch {
 public:
  explicit GradBatch(const GradCase& c) {
    input.branch = c.branch;
    input.spec = c.spec;
    input.spec.scale = 1 / std::sqrt(static_cast<double>(c.head_dim_k));
    input.heads = {c.group * c.num_kv_heads, c.num_kv_heads, c.head_dim_k, c.head_dim_v};
    cu_seqlens_ = {0};
    for (const int64_t length : c.lengths) {
      cu_seqlens_.push_back(cu_seqlens_.back() + length);
      num_keys += input.NumKeys(length);
    }
    input.sequences = {cu_seqlens_.data(), static_cast<int64_t>(c.lengths.size())};
    const int64_t tokens = num_tokens(), q_rows = tokens * input.heads.num_q_heads;
    const int64_t kv_rows = num_keys * c.num_kv_heads;
    q = As<T>(RandomDoubles(q_rows * c.head_dim_k, 1));
    k = As<T>(RandomDoubles(kv_rows * c.head_dim_k, 2));
    v = As<T>(RandomDoubles(kv_rows * c.head_dim_v, 3));
    grad_out = As<T>(RandomDoubles(q_rows * c.head_dim_v, 4));
    out.assign(grad_out.size(), T{-7});
    lse.assign(static_cast<size_t>(q_rows), T{-7});
    selected.assign(static_cast<size_t>(tokens * c.num_kv_heads * c.spec.num_selected_blocks), -7);
    if (c.branch == Branch::kSelected) SelectAtRandom();
    grad_q.assign(q.size(), T{-7});
    grad_k.assign(k.size(), T{-7});
    grad_v.assign(v.size(), T{-7});
    input.q = q.data();
    input.k = k.data();
    input.v = v.data();
    input.selected = c.branch == Branch::kSelected ? selected.data() : nullptr;
  }
  GradBatch(const GradBatch&) = delete;
  GradBatch& operator=(const GradBatch&) = delete;

  int64_t num_tokens() const { return cu_seqlens_.back(); }
  AttentionOutput<T> output() {
    const bool chooses = input.branch == Branch::kCompressed;
    return {out.data(), lse.data(), chooses ? selected.data() : nullptr};
  }
  AttentionGradients<T> gradients() {
    return {out.data(), lse.data(), grad_out.data(), grad_q.data(), grad_k.data(), grad_v.data()};
  }

  AttentionInput<T> input;
  int64_t num_keys = 0;
  std::vector<T> q, k, v, grad_out, out, lse, grad_q, grad_k, grad_v;
  std::vector<int32_t> selected;

 private:
  /// Blocks as a choice could give them, sometimes fewer than there are, sometimes none.
  void SelectAtRandom() {
    std::mt19937 generator(5);
    const int n = input.spec.num_selected_blocks;
    int32_t* to = selected.data();
    for (int64_t s = 0; s < input.sequences.num_sequences; ++s) {
      for (int64_t t = 0; t < input.sequences.Length(s); ++t) {
        for (int head = 0; head < input.heads.num_kv_heads; ++head, to += n) {
          std::vector<int32_t> blocks(static_cast<size_t>(t / input.spec.sel_block_size + 1));
          std::iota(blocks.begin(), blocks.end(), 0);
          std::shuffle(blocks.begin(), blocks.end(), generator);
          blocks.resize(std::min<size_t>(blocks.size(), generator() % (n + 1)));
          std::sort(blocks.begin(), blocks.end());
          std::fill_n(to, n, -1);
          std::copy(blocks.begin(), blocks.end(), to);
        }
      }
    }
  }

  std::vector<int64_t> cu_seqlens_;
};

/// The largest difference is at most the tolerance's part of the largest expected magnitude.
inline void ExpectNear(const std::vector<double>& expected, const std::vector<float>& actual,
                       double tolerance, const char* what) {
  ASSERT_EQ(expected.size(), actual.size()) << what;
  double scale = 1e-30, difference = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    if (std::isinf(expected[i])) {
      ASSERT_EQ(expected[i], actual[i]) << what << ' ' << i;
      continue;
    }
    ASSERT_FALSE(std::isnan(actual[i])) << what << ' ' << i;
    scale = std::max(scale, std::abs(expected[i]));
    difference = std::max(difference, std::abs(expected[i] - actual[i]));
  }
  EXPECT_LE(difference, tolerance * scale) << what;
}

inline std::vector<GradCase> GradCases() {
  // length, stride, sel_block_size, num_selected_blocks, num_initial_blocks, num_local_blocks,
  // window_size
  const AttentionSpec paper = {32, 16, 64, 4, 1, 2, 100};
  const AttentionSpec small_blocks = {16, 8, 32, 5, 2, 1, 64};
  const AttentionSpec large_blocks = {64, 64, 128, 2, 0, 1, 2};
  const AttentionSpec tiny_blocks = {8, 4, 8, 6, 1, 2, 7};
  std::vector<GradCase> cases;
  const auto add = [&](Branch branch, const std::string& prefix) {
    const auto named = [&](const char* of) { return prefix + "_" + of; };
    cases.push_back({named("paper"), branch, {700}, 4, 2, 64, 64, paper});
    // Shorter than a window, a block, both; empty; several tiles of backward.
    cases.push_back({named("ragged"), branch, {1, 31, 0, 33, 64, 65, 200}, 2, 2, 32, 48, paper});
    cases.push_back({named("group_1"), branch, {150, 90}, 1, 3, 16, 80, small_blocks});
    cases.push_back({named("group_16"), branch, {330}, 16, 1, 32, 16, small_blocks});
    cases.push_back({named("group_7_odd"), branch, {260, 3}, 7, 1, 19, 5, paper});
    cases.push_back({named("large_blocks"), branch, {20, 500}, 3, 2, 16, 16, large_blocks});
    cases.push_back({named("tiny_blocks"), branch, {100, 61}, 5, 1, 16, 32, tiny_blocks});
    cases.push_back({named("tiles"), branch, {2300, 1025}, 1, 1, 16, 16, paper});
    cases.push_back({named("group_64"), branch, {70}, 64, 1, 16, 16, tiny_blocks});
    cases.push_back({named("empty"), branch, {}, 2, 1, 16, 16, paper});
  };
  add(Branch::kCompressed, "cmp");
  add(Branch::kSelected, "selected");
  add(Branch::kWindow, "window");
  return cases;
}

}  // namespace nsa::kernels::grad

#endif  // NSA_TESTS_KERNELS_GRAD_BATCH_H_
