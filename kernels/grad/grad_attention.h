#ifndef NSA_KERNELS_GRAD_GRAD_ATTENTION_H_
#define NSA_KERNELS_GRAD_GRAD_ATTENTION_H_

#include <algorithm>
#include <cstdint>

#include "kernels/grad/sequences.h"

/// The attention branches of NSA for training (arXiv 2502.11089, Eq. 5 to 12): a forward that saves
/// the log-sum-exp, and a backward that makes the probabilities anew from it.
namespace nsa::kernels::grad {

enum class Branch : uint8_t {
  kCompressed,  // all windows that end at or before the query (Eq. 7)
  kSelected,    // tokens at or before the query in its selected blocks (Eq. 12)
  kWindow,      // the last `window_size` tokens, the query's own among them
};

/// The paper's parameters, in tokens, and the factor of q·k.
struct AttentionSpec {
  int length = 32;               // l
  int stride = 16;               // d
  int sel_block_size = 64;       // l': a multiple of stride, and a divisor or a multiple of 64
  int num_selected_blocks = 16;  // n, forced ones included
  int num_initial_blocks = 1;    // forced: blocks 0 … num_initial_blocks − 1
  int num_local_blocks = 2;      // forced: the query's own block and those before it
  int64_t window_size = 512;     // w ≥ 1
  double scale = 1;              // > 0
};

/// Query head h reads KV head h / Group().
struct HeadShape {
  int num_q_heads = 0;  // a multiple of num_kv_heads
  int num_kv_heads = 0;
  int head_dim_k = 0;
  int head_dim_v = 0;

  int Group() const { return num_q_heads / num_kv_heads; }
};

/// Tensors are dense. S keys: tokens, or windows (kCompressed) laid end to end as their sequences.
template <typename T>
struct AttentionInput {
  Branch branch = Branch::kWindow;
  AttentionSpec spec;
  HeadShape heads;
  PackedSequences sequences;
  const T* q = nullptr;               // [num_tokens, num_q_heads, head_dim_k]
  const T* k = nullptr;               // [S, num_kv_heads, head_dim_k]
  const T* v = nullptr;               // [S, num_kv_heads, head_dim_v]
  const int32_t* selected = nullptr;  // kSelected: [num_tokens, num_kv_heads,
                                      // num_selected_blocks], each block once, or −1 for none

  /// Number of keys of a sequence of `num_tokens` tokens.
  int64_t NumKeys(int64_t num_tokens) const {
    return branch == Branch::kCompressed ? NumWindows(num_tokens, spec.length, spec.stride)
                                         : num_tokens;
  }
};

/// Keys [begin, end) of its sequence, of which a query sees those that its branch selects.
struct KeyRange {
  int64_t begin = 0;
  int64_t end = 0;
};

/// What the query at `position` of its sequence may see.
inline KeyRange VisibleKeys(Branch branch, const AttentionSpec& spec, int64_t position) {
  switch (branch) {
    case Branch::kCompressed:
      return {0, NumWindows(position + 1, spec.length, spec.stride)};
    case Branch::kWindow:
      return {std::max<int64_t>(0, position + 1 - spec.window_size), position + 1};
    case Branch::kSelected:
      break;
  }
  return {0, position + 1};
}

/// A query that sees nothing gets output 0 and log-sum-exp −inf.
template <typename T>
struct AttentionOutput {
  T* out = nullptr;  // [num_tokens, num_q_heads, head_dim_v]
  T* lse = nullptr;  // [num_tokens, num_q_heads]: log Σ exp(scale·q·k)
  /// kCompressed, or null: the choice of blocks from these probabilities (Eq. 8 to 12), as
  /// ops/score_topk.h has it: per KV head the overlap sum of windows, the sum of the group's heads,
  /// the forced blocks, the lower index of equal scores, all blocks while there are no more than n.
  int32_t* selected = nullptr;  // [num_tokens, num_kv_heads, num_selected_blocks] rising, then −1
};

/// The choice of blocks has no gradient.
template <typename T>
struct AttentionGradients {
  const T* out = nullptr;       // as the forward left it
  const T* lse = nullptr;       // as the forward left it
  const T* grad_out = nullptr;  // [num_tokens, num_q_heads, head_dim_v]
  T* grad_q = nullptr;          // as q; overwritten, as the two below
  T* grad_k = nullptr;          // as k
  T* grad_v = nullptr;          // as v
};

namespace reference {

/// T: float or double.
template <typename T>
void AttentionForward(const AttentionInput<T>& input, const AttentionOutput<T>& output);
template <typename T>
void AttentionBackward(const AttentionInput<T>& input, const AttentionGradients<T>& gradients);

}  // namespace reference
}  // namespace nsa::kernels::grad

namespace nsa::kernels::cpu {
struct Context;
}

namespace nsa::kernels::grad::cpu {

/// Query heads per KV head that the CPU's kernels take.
inline constexpr int kMaxGroup = 64;

/// The same results whatever the number of threads.
void AttentionForward(kernels::cpu::Context& context, const AttentionInput<float>& input,
                      const AttentionOutput<float>& output);
void AttentionBackward(kernels::cpu::Context& context, const AttentionInput<float>& input,
                       const AttentionGradients<float>& gradients);

}  // namespace nsa::kernels::grad::cpu

#endif  // NSA_KERNELS_GRAD_GRAD_ATTENTION_H_
