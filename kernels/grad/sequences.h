#ifndef NSA_KERNELS_GRAD_SEQUENCES_H_
#define NSA_KERNELS_GRAD_SEQUENCES_H_

#include <cstdint>

namespace nsa::kernels::grad {

/// Sequences of a batch, laid end to end.
struct PackedSequences {
  const int64_t* cu_seqlens = nullptr;  // [num_sequences + 1] rising from 0, in tokens
  int64_t num_sequences = 0;

  int64_t Begin(int64_t sequence) const { return cu_seqlens[sequence]; }
  int64_t Length(int64_t sequence) const { return cu_seqlens[sequence + 1] - cu_seqlens[sequence]; }
  int64_t num_tokens() const { return cu_seqlens[num_sequences]; }
};

/// Windows of `length` tokens, one every `stride`, that `num_tokens` tokens complete: window i has
/// tokens [i·stride, i·stride + length).
constexpr int64_t NumWindows(int64_t num_tokens, int64_t length, int64_t stride) {
  return num_tokens < length ? 0 : (num_tokens - length) / stride + 1;
}

}  // namespace nsa::kernels::grad

#endif  // NSA_KERNELS_GRAD_SEQUENCES_H_
