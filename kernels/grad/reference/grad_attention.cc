#include "kernels/grad/grad_attention.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <vector>

namespace nsa::kernels::grad::reference {
namespace {

/// One query token of one sequence.
struct Query {
  int64_t token;      // of all
  int64_t position;   // in its sequence
  int64_t key_begin;  // of its sequence, of all keys
};

template <typename T, typename Body>
void ForEachQuery(const AttentionInput<T>& input, Body&& body) {
  int64_t key_begin = 0;
  for (int64_t s = 0; s < input.sequences.num_sequences; ++s) {
    const int64_t length = input.sequences.Length(s);
    for (int64_t t = 0; t < length; ++t) {
      body(Query{input.sequences.Begin(s) + t, t, key_begin});
    }
    key_begin += input.NumKeys(length);
  }
}

/// The keys that a query sees through one KV head, rising, of all keys.
template <typename T>
std::vector<int64_t> SeenKeys(const AttentionInput<T>& input, const Query& query, int kv_head) {
  const KeyRange range = VisibleKeys(input.branch, input.spec, query.position);
  std::vector<int64_t> keys;
  if (input.branch != Branch::kSelected) {
    keys.resize(static_cast<size_t>(range.end - range.begin));
    std::iota(keys.begin(), keys.end(), query.key_begin + range.begin);
    return keys;
  }
  const int n = input.spec.num_selected_blocks;
  const int32_t* selected = input.selected + (query.token * input.heads.num_kv_heads + kv_head) * n;
  for (int i = 0; i < n; ++i) {
    if (selected[i] < 0) continue;
    const int64_t begin = int64_t{selected[i]} * input.spec.sel_block_size;
    const int64_t end = std::min(begin + input.spec.sel_block_size, range.end);
    for (int64_t key = begin; key < end; ++key) keys.push_back(query.key_begin + key);
  }
  return keys;
}

template <typename T>
T Dot(const T* a, const T* b, int count) {
  T sum = 0;
  for (int i = 0; i < count; ++i) sum += a[i] * b[i];
  return sum;
}

/// scale·q·k for one query head and these keys.
template <typename T>
std::vector<T> Scores(const AttentionInput<T>& input, const Query& query, int head,
                      const std::vector<int64_t>& keys) {
  const HeadShape& heads = input.heads;
  const T* q = input.q + (query.token * heads.num_q_heads + head) * heads.head_dim_k;
  const int kv_head = head / heads.Group();
  std::vector<T> scores;
  for (const int64_t key : keys) {
    const T* k = input.k + (key * heads.num_kv_heads + kv_head) * heads.head_dim_k;
    scores.push_back(static_cast<T>(input.spec.scale) * Dot(q, k, heads.head_dim_k));
  }
  return scores;
}

template <typename T>
T LogSumExp(const std::vector<T>& scores) {
  if (scores.empty()) return -std::numeric_limits<T>::infinity();
  const T maximum = *std::max_element(scores.begin(), scores.end());
  T sum = 0;
  for (const T score : scores) sum += std::exp(score - maximum);
  return maximum + std::log(sum);
}

/// Eq. 9: of each window's probability as much as it has strides in the block.
template <typename T>
T BlockScore(const AttentionSpec& spec, const std::vector<T>& probabilities, int64_t block) {
  const int64_t begin = block * spec.sel_block_size, end = begin + spec.sel_block_size;
  T score = 0;
  for (int64_t i = 0; i < static_cast<int64_t>(probabilities.size()); ++i) {
    const int64_t first = i * spec.stride;
    const int64_t overlap = std::min(first + spec.length, end) - std::max(first, begin);
    const int64_t strides = std::max<int64_t>(overlap, 0) / spec.stride;
    score += static_cast<T>(strides) * probabilities[i];
  }
  return score;
}

/// Eq. 10 to 12, from probabilities summed over the group.
template <typename T>
void SelectBlocks(const AttentionSpec& spec, const std::vector<T>& probabilities, int64_t position,
                  int32_t* selected) {
  const int64_t num_candidates = position / spec.sel_block_size + 1;
  std::vector<int32_t> blocks(static_cast<size_t>(num_candidates));
  std::iota(blocks.begin(), blocks.end(), 0);
  const auto n = static_cast<size_t>(spec.num_selected_blocks);
  if (blocks.size() > n) {
    std::vector<T> scores(blocks.size());
    for (int64_t block = 0; block < num_candidates; ++block) {
      const bool forced =
          block < spec.num_initial_blocks || block >= num_candidates - spec.num_local_blocks;
      scores[block] =
          forced ? std::numeric_limits<T>::infinity() : BlockScore(spec, probabilities, block);
    }
    std::erase_if(blocks, [&](int32_t block) { return std::isnan(scores[block]); });
    std::stable_sort(blocks.begin(), blocks.end(),
                     [&](int32_t a, int32_t b) { return scores[a] > scores[b]; });
    blocks.resize(std::min(blocks.size(), n));
    std::sort(blocks.begin(), blocks.end());
  }
  std::fill_n(selected, n, -1);
  std::copy(blocks.begin(), blocks.end(), selected);
}

}  // namespace

template <typename T>
void AttentionForward(const AttentionInput<T>& input, const AttentionOutput<T>& output) {
  const HeadShape& heads = input.heads;
  ForEachQuery(input, [&](const Query& query) {
    for (int kv_head = 0; kv_head < heads.num_kv_heads; ++kv_head) {
      const std::vector<int64_t> keys = SeenKeys(input, query, kv_head);
      std::vector<T> group_probabilities(keys.size(), T{0});
      for (int h = kv_head * heads.Group(); h < (kv_head + 1) * heads.Group(); ++h) {
        const std::vector<T> scores = Scores(input, query, h, keys);
        const int64_t row = query.token * heads.num_q_heads + h;
        const T lse = LogSumExp(scores);
        T* out = output.out + row * heads.head_dim_v;
        output.lse[row] = lse;
        std::fill_n(out, heads.head_dim_v, T{0});
        for (size_t i = 0; i < keys.size(); ++i) {
          const T p = std::exp(scores[i] - lse);
          const T* v = input.v + (keys[i] * heads.num_kv_heads + kv_head) * heads.head_dim_v;
          for (int dim = 0; dim < heads.head_dim_v; ++dim) out[dim] += p * v[dim];
          group_probabilities[i] += p;
        }
      }
      if (output.selected != nullptr) {
        const int64_t index = query.token * heads.num_kv_heads + kv_head;
        SelectBlocks(input.spec, group_probabilities, query.position,
                     output.selected + index * input.spec.num_selected_blocks);
      }
    }
  });
}

template <typename T>
void AttentionBackward(const AttentionInput<T>& input, const AttentionGradients<T>& gradients) {
  const HeadShape& heads = input.heads;
  const int dim_k = heads.head_dim_k, dim_v = heads.head_dim_v;
  int64_t num_keys = 0;
  for (int64_t s = 0; s < input.sequences.num_sequences; ++s) {
    num_keys += input.NumKeys(input.sequences.Length(s));
  }
  std::fill_n(gradients.grad_q, input.sequences.num_tokens() * heads.num_q_heads * dim_k, T{0});
  std::fill_n(gradients.grad_k, num_keys * heads.num_kv_heads * dim_k, T{0});
  std::fill_n(gradients.grad_v, num_keys * heads.num_kv_heads * dim_v, T{0});
  ForEachQuery(input, [&](const Query& query) {
    for (int h = 0; h < heads.num_q_heads; ++h) {
      const int kv_head = h / heads.Group();
      const std::vector<int64_t> keys = SeenKeys(input, query, kv_head);
      const std::vector<T> scores = Scores(input, query, h, keys);
      const int64_t row = query.token * heads.num_q_heads + h;
      const T* grad_out = gradients.grad_out + row * dim_v;
      // Σ_j p_j·dp_j, as out = Σ_j p_j·v_j.
      const T delta = Dot(grad_out, gradients.out + row * dim_v, dim_v);
      for (size_t i = 0; i < keys.size(); ++i) {
        const int64_t key_row = keys[i] * heads.num_kv_heads + kv_head;
        const T p = std::exp(scores[i] - gradients.lse[row]);
        const T grad_p = Dot(grad_out, input.v + key_row * dim_v, dim_v);
        const T grad_score = p * (grad_p - delta) * static_cast<T>(input.spec.scale);
        for (int dim = 0; dim < dim_v; ++dim) {
          gradients.grad_v[key_row * dim_v + dim] += p * grad_out[dim];
        }
        for (int dim = 0; dim < dim_k; ++dim) {
          gradients.grad_q[row * dim_k + dim] += grad_score * input.k[key_row * dim_k + dim];
          gradients.grad_k[key_row * dim_k + dim] += grad_score * input.q[row * dim_k + dim];
        }
      }
    }
  });
}

#define NSA_INSTANTIATE(T)                                                             \
  template void AttentionForward(const AttentionInput<T>&, const AttentionOutput<T>&); \
  template void AttentionBackward(const AttentionInput<T>&, const AttentionGradients<T>&);
NSA_INSTANTIATE(float)
NSA_INSTANTIATE(double)
#undef NSA_INSTANTIATE

}  // namespace nsa::kernels::grad::reference
