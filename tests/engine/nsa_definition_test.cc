#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <numeric>
#include <random>
#include <vector>

#include "engine/attention/plan.h"
#include "engine/attention/rope_table.h"
#include "engine/kv_cache.h"
#include "kernels/backend.h"

/// AttentionPlan::Run with the paper's plan against NSA written down as the paper does (arXiv
/// 2502.11089, Eq. 5–12): dense, in double, positions absolute, nothing paged and no code shared.
namespace nsa::engine {
namespace {

constexpr AttentionShape kShape = {
    .num_q_heads = 6, .num_kv_heads = 2, .head_dim_k = 32, .head_dim_v = 16, .scale = 0.3f};
constexpr int kGroup = 3;
constexpr int64_t kNumTokens = 401;

AttentionSpec PaperSpec() {
  AttentionSpec spec;
  spec.sparse = true;
  spec.compressed_values = true;
  spec.num_selected_blocks = 4;
  spec.window_size = 96;
  return spec;
}

using Row = std::vector<double>;

double Dot(const Row& a, const Row& b) {
  return std::inner_product(a.begin(), a.end(), b.begin(), 0.0);
}

/// Σ softmax(scores)·values over the entries; `weights` gets the softmax.
Row Attend(const std::vector<double>& scores, const std::vector<const Row*>& values, Row* weights) {
  Row out(static_cast<size_t>(kShape.head_dim_v), 0.0);
  weights->assign(scores.size(), 0.0);
  if (scores.empty()) return out;
  const double maximum = *std::max_element(scores.begin(), scores.end());
  double sum = 0;
  for (size_t i = 0; i < scores.size(); ++i) sum += (*weights)[i] = std::exp(scores[i] - maximum);
  for (size_t i = 0; i < scores.size(); ++i) {
    (*weights)[i] /= sum;
    for (size_t dim = 0; dim < out.size(); ++dim) out[dim] += (*weights)[i] * (*values[i])[dim];
  }
  return out;
}

/// Random activations of one sequence, and its attention by definition.
class DenseNsa {
 public:
  explicit DenseNsa(const AttentionSpec& spec)
      : spec_(spec), frequencies_(InverseFrequencies(10000, kShape.head_dim_k)) {
    std::mt19937 generator(7);
    std::normal_distribution<float> normal;
    for (auto* floats : {&q, &k, &v, &gates}) {
      const int64_t width = floats == &q   ? kShape.num_q_heads * kShape.head_dim_k
                            : floats == &k ? kShape.num_kv_heads * kShape.head_dim_k
                            : floats == &v ? kShape.num_kv_heads * kShape.head_dim_v
                                           : kShape.num_q_heads * 3;
      floats->resize(static_cast<size_t>(kNumTokens * width));
      for (float& x : *floats) x = normal(generator);
    }
  }

  /// y of head `head` for the token at t.
  Row At(int64_t t, int head) const {
    const int kv_head = head / kGroup;
    const std::vector<int64_t> blocks = SelectedBlocks(t, kv_head);
    Row weights;
    const Row cmp = Compressed(t, head, &weights);
    const Row sel = Tokens(t, head, [&](int64_t token) {
      return std::find(blocks.begin(), blocks.end(), token / spec_.sel_block_size) != blocks.end();
    });
    const Row win = Tokens(t, head, [&](int64_t token) { return t - token < spec_.window_size; });
    Row y(cmp.size(), 0.0);
    const Row* branches[] = {&cmp, &sel, &win};
    for (int b = 0; b < 3; ++b) {
      const double logit = gates[static_cast<size_t>((t * kShape.num_q_heads + head) * 3 + b)];
      for (size_t dim = 0; dim < y.size(); ++dim) {
        y[dim] += (*branches[b])[dim] / (1 + std::exp(-logit));
      }
    }
    return y;
  }

  std::vector<float> q, k, v, gates;

 private:
  static Row Slice(const std::vector<float>& floats, int64_t index, int width) {
    const auto begin = floats.begin() + index * width;
    return {begin, begin + width};
  }
  Row Rotated(Row x, int64_t position) const {
    const size_t half = x.size() / 2;
    for (size_t i = 0; i < half; ++i) {
      const double angle = static_cast<double>(position) * frequencies_[i];
      const double a = x[i], b = x[i + half];
      x[i] = a * std::cos(angle) - b * std::sin(angle);
      x[i + half] = b * std::cos(angle) + a * std::sin(angle);
    }
    return x;
  }
  Row Query(int64_t t, int head) const {
    return Rotated(Slice(q, t * kShape.num_q_heads + head, kShape.head_dim_k), t);
  }
  Row Key(int64_t t, int kv_head) const {
    return Rotated(Slice(k, t * kShape.num_kv_heads + kv_head, kShape.head_dim_k), t);
  }
  Row Value(int64_t t, int kv_head) const {
    return Slice(v, t * kShape.num_kv_heads + kv_head, kShape.head_dim_v);
  }

  /// Mean of the rows of window i (Eq. 7, φ = mean).
  template <typename RowAt>
  Row Mean(int64_t window, const RowAt& row_at) const {
    Row mean;
    for (int e = 0; e < spec_.compression_length; ++e) {
      const Row row = row_at(window * spec_.compression_stride + e);
      mean.resize(row.size(), 0.0);
      for (size_t dim = 0; dim < row.size(); ++dim)
        mean[dim] += row[dim] / spec_.compression_length;
    }
    return mean;
  }

  Row Compressed(int64_t t, int head, Row* weights) const {
    const int kv_head = head / kGroup;
    std::vector<double> scores;
    std::vector<Row> values;
    for (int64_t i = 0; i * spec_.compression_stride + spec_.compression_length <= t + 1; ++i) {
      const Row key = Mean(i, [&](int64_t token) { return Key(token, kv_head); });
      values.push_back(Mean(i, [&](int64_t token) { return Value(token, kv_head); }));
      scores.push_back(Dot(Query(t, head), key) * kShape.scale);
    }
    std::vector<const Row*> pointers;
    for (const Row& value : values) pointers.push_back(&value);
    return Attend(scores, pointers, weights);
  }

  template <typename IsRead>
  Row Tokens(int64_t t, int head, const IsRead& is_read) const {
    std::vector<double> scores;
    std::vector<Row> values;
    for (int64_t token = 0; token <= t; ++token) {
      if (!is_read(token)) continue;
      scores.push_back(Dot(Query(t, head), Key(token, head / kGroup)) * kShape.scale);
      values.push_back(Value(token, head / kGroup));
    }
    std::vector<const Row*> pointers;
    for (const Row& value : values) pointers.push_back(&value);
    Row weights;
    return Attend(scores, pointers, &weights);
  }

  /// Eq. 9–12, counting for each block the strides that a window shares with it.
  std::vector<int64_t> SelectedBlocks(int64_t t, int kv_head) const {
    const int64_t num_blocks = t / spec_.sel_block_size + 1;
    std::vector<double> block_scores(static_cast<size_t>(num_blocks), 0.0);
    for (int head = kv_head * kGroup; head < (kv_head + 1) * kGroup; ++head) {
      Row weights;
      Compressed(t, head, &weights);
      for (size_t i = 0; i < weights.size(); ++i) {
        for (int64_t at = 0; at < spec_.compression_length; at += spec_.compression_stride) {
          const int64_t token = static_cast<int64_t>(i) * spec_.compression_stride + at;
          block_scores[static_cast<size_t>(token / spec_.sel_block_size)] += weights[i];
        }
      }
    }
    for (int64_t block = 0; block < num_blocks; ++block) {
      if (block < spec_.num_initial_blocks || block >= num_blocks - spec_.num_local_blocks) {
        block_scores[static_cast<size_t>(block)] = std::numeric_limits<double>::infinity();
      }
    }
    std::vector<int64_t> blocks(static_cast<size_t>(num_blocks));
    std::iota(blocks.begin(), blocks.end(), 0);
    std::stable_sort(blocks.begin(), blocks.end(), [&](int64_t a, int64_t b) {
      return block_scores[static_cast<size_t>(a)] > block_scores[static_cast<size_t>(b)];
    });
    blocks.resize(std::min<size_t>(blocks.size(), static_cast<size_t>(spec_.num_selected_blocks)));
    return blocks;
  }

  AttentionSpec spec_;
  std::vector<double> frequencies_;
};

/// y [kNumTokens, heads, head_dim_v] by the plan, in chunks; the pages are out of order.
std::vector<float> RunPlan(kernels::Backend& backend, const AttentionSpec& spec,
                           const DenseNsa& dense, int64_t chunk) {
  const auto plan = AttentionPlan::Resolve(spec, kShape);
  EXPECT_TRUE(plan.ok()) << plan.status();
  const int32_t num_pages = kNumTokens / kernels::kPageSize + 1;
  const auto cache =
      KvCache::Create(backend, KvLayout::For(spec, kShape, 1, kernels::DType::kF32), num_pages);
  EXPECT_TRUE(cache.ok()) << cache.status();
  std::vector<int32_t> table(static_cast<size_t>(num_pages));
  std::iota(table.rbegin(), table.rend(), 0);
  const RopeTable rope(backend, InverseFrequencies(10000, kShape.head_dim_k), kNumTokens);
  AttentionWorkspace workspace(backend, kShape, chunk, spec.num_selected_blocks);
  const std::vector<int32_t> num_selected(static_cast<size_t>(chunk), spec.num_selected_blocks);
  const int64_t width = int64_t{kShape.num_q_heads} * kShape.head_dim_v;
  std::vector<float> y(static_cast<size_t>(kNumTokens * width));
  for (int64_t t = 0; t < kNumTokens; t += chunk) {
    const int64_t num_rows = std::min(chunk, kNumTokens - t);
    const kernels::AttentionSegment segment = {table.data(), t, 0, static_cast<int32_t>(num_rows)};
    AttentionInputs inputs;
    inputs.query.q_stride = int64_t{kShape.num_q_heads} * kShape.head_dim_k;
    inputs.query.q = dense.q.data() + t * inputs.query.q_stride;
    inputs.query.num_q_heads = kShape.num_q_heads;
    inputs.query.scale = kShape.scale;
    inputs.query.segments = &segment;
    inputs.query.num_segments = 1;
    inputs.query.rope = rope.view();
    inputs.k_stride = int64_t{kShape.num_kv_heads} * kShape.head_dim_k;
    inputs.v_stride = int64_t{kShape.num_kv_heads} * kShape.head_dim_v;
    inputs.branch_kv[0] = {.k = dense.k.data() + t * inputs.k_stride,
                           .v = dense.v.data() + t * inputs.v_stride,
                           .kv = (*cache)->view(0)};
    inputs.row_num_selected_blocks = num_selected.data();
    inputs.gate_stride = int64_t{kShape.num_q_heads} * 3;
    inputs.gate_logits = dense.gates.data() + t * inputs.gate_stride;
    inputs.num_rows = num_rows;
    inputs.y = y.data() + t * width;
    plan->Run(backend, inputs, workspace);
  }
  return y;
}

void ExpectEqualsTheDefinition(kernels::Backend& backend, int64_t chunk) {
  const DenseNsa dense(PaperSpec());
  const std::vector<float> y = RunPlan(backend, PaperSpec(), dense, chunk);
  for (int64_t t = 0; t < kNumTokens; t += t < 200 ? 1 : 7) {
    for (int head = 0; head < kShape.num_q_heads; ++head) {
      const Row expected = dense.At(t, head);
      const float* actual = y.data() + (t * kShape.num_q_heads + head) * kShape.head_dim_v;
      for (size_t dim = 0; dim < expected.size(); ++dim) {
        ASSERT_NEAR(actual[dim], expected[dim], 2e-5) << "t " << t << " head " << head;
      }
    }
  }
}

TEST(NsaDefinitionTest, ReferenceEqualsTheDefinition) {
  ExpectEqualsTheDefinition(*kernels::MakeReferenceBackend(), 64);
}

TEST(NsaDefinitionTest, CpuEqualsTheDefinition) {
  for (const int64_t chunk : {1, 97, 401}) {
    SCOPED_TRACE(chunk);
    ExpectEqualsTheDefinition(*kernels::MakeCpuBackend(2), chunk);
  }
}

}  // namespace
}  // namespace nsa::engine
