#ifndef NSA_TESTS_KERNELS_GRAD_CALL_H_
#define NSA_TESTS_KERNELS_GRAD_CALL_H_

#include <cstdint>
#include <memory>

#include "kernels/c_api.h"
#include "tests/kernels/grad_batch.h"

/// Calls of kernels/c_api.h for the batches of grad_batch.h.
namespace nsa::kernels::grad {

struct DestroyContext {
  void operator()(nsa_context* context) const { nsa_context_destroy(context); }
};
using ContextHandle = std::unique_ptr<nsa_context, DestroyContext>;

using GradFunction = int32_t (*)(nsa_context*, const nsa_grad_attention*);

struct GradFunctions {
  Branch branch;
  GradFunction forward;
  GradFunction backward;
};

inline constexpr GradFunctions kGradFunctions[] = {
    {Branch::kCompressed, nsa_grad_cmp_attention_forward, nsa_grad_cmp_attention_backward},
    {Branch::kSelected, nsa_grad_selected_attention_forward, nsa_grad_selected_attention_backward},
    {Branch::kWindow, nsa_grad_window_attention_forward, nsa_grad_window_attention_backward}};

inline GradCase SmallGradCase(Branch branch) {
  return {"", branch, {90, 40}, 2, 1, 16, 24, {32, 16, 64, 4, 1, 2, 33}};
}

/// All but pointers.
template <typename T>
nsa_grad_attention SizesOfCall(const GradBatch<T>& batch) {
  nsa_grad_attention call = {};
  call.size = sizeof(call);
  call.num_sequences = batch.input.sequences.num_sequences;
  call.cu_seqlens = batch.input.sequences.cu_seqlens;
  call.num_q_heads = batch.input.heads.num_q_heads;
  call.num_kv_heads = batch.input.heads.num_kv_heads;
  call.head_dim_k = batch.input.heads.head_dim_k;
  call.head_dim_v = batch.input.heads.head_dim_v;
  const AttentionSpec& spec = batch.input.spec;
  call.compression_length = spec.length;
  call.compression_stride = spec.stride;
  call.sel_block_size = spec.sel_block_size;
  call.num_selected_blocks = spec.num_selected_blocks;
  call.num_initial_blocks = spec.num_initial_blocks;
  call.num_local_blocks = spec.num_local_blocks;
  call.window_size = spec.window_size;
  call.scale = spec.scale;
  return call;
}

}  // namespace nsa::kernels::grad

#endif  // NSA_TESTS_KERNELS_GRAD_CALL_H_
