#ifndef NSA_KERNELS_C_API_H_
#define NSA_KERNELS_C_API_H_

#include <stdint.h>

/// The operators of kernels/grad for callers in other languages: libnsa_kernels_c. Tensors are
/// dense float32 in the layouts of grad/grad_attention.h and grad/grad_windows.h, at any address
/// that floats may have; nothing is kept after a call. Functions return 0, or −1 where an argument
/// is refused; nsa_last_error() then tells which. One call at a time may use a context.
///
/// Of a GPU's context, all tensors are in its memory, and may be bfloat16 (`dtype`); cu_seqlens is
/// the host's, and may be gone after a call. A call enqueues work on the context's stream and
/// returns: tensors must stay until that is done. Entries of `selected` that name no block at or
/// before the query are passed over, as nobody reads them in time to refuse them.
#ifdef __cplusplus
extern "C" {
#endif

typedef struct nsa_context nsa_context;

/// Threads and scratch memory for calls. num_threads ≥ 1 counts the calling thread. Null where it
/// is refused.
nsa_context* nsa_context_create(int32_t num_threads);
/// For the first GPU that CUDA shows this process. Null where there is none, or the library was
/// built without CUDA: nsa_last_error() tells.
nsa_context* nsa_context_create_cuda(void);
void nsa_context_destroy(nsa_context* context);

/// A GPU's context: the cudaStream_t of calls from now on; null, as at first, is the default
/// stream. Another one than before waits for what was enqueued there.
int32_t nsa_context_set_stream(nsa_context* context, void* stream);

/// What the calling thread's last failed call did not like; empty before the first.
const char* nsa_last_error(void);

/// Elements of a call's tensors. Log-sum-exps are float32 always.
enum { NSA_FLOAT32 = 0, NSA_BFLOAT16 = 1 };

/// W windows of all sequences, one after the other; S tokens.
typedef struct {
  int64_t size;               // sizeof(nsa_grad_windows), of the caller's text
  int64_t num_sequences;      // ≥ 0
  const int64_t* cu_seqlens;  // [num_sequences + 1] rising from 0, in tokens
  int64_t num_heads;
  int64_t head_dim;
  int64_t compression_length;  // l, a multiple of the stride
  int64_t compression_stride;  // d
  const float* x;              // forward: [S, num_heads, head_dim]
  const float* position;       // forward of gather: [l, head_dim]
  float* windows;             // forward: [W, num_heads, l·head_dim], mean: [W, num_heads, head_dim]
  const float* grad_windows;  // backward: as windows
  float* grad_x;              // backward: as x
  float* grad_position;       // backward of gather: as position
  int64_t dtype;              // NSA_FLOAT32; of a GPU also NSA_BFLOAT16, in the place of floats.
                              // A struct without it, with that size, is float32
} nsa_grad_windows;

int32_t nsa_grad_gather_windows_forward(nsa_context* context, const nsa_grad_windows* call);
int32_t nsa_grad_gather_windows_backward(nsa_context* context, const nsa_grad_windows* call);
int32_t nsa_grad_mean_windows_forward(nsa_context* context, const nsa_grad_windows* call);
int32_t nsa_grad_mean_windows_backward(nsa_context* context, const nsa_grad_windows* call);

/// K keys: tokens; of cmp_attention the windows.
typedef struct {
  int64_t size;               // sizeof(nsa_grad_attention), of the caller's text
  int64_t num_sequences;      // ≥ 0
  const int64_t* cu_seqlens;  // [num_sequences + 1] rising from 0, in tokens
  int64_t num_q_heads;        // a multiple, at most 64-fold, of num_kv_heads
  int64_t num_kv_heads;
  int64_t head_dim_k;
  int64_t head_dim_v;
  int64_t compression_length;   // l, a multiple of the stride; of cmp_attention alone
  int64_t compression_stride;   // d; of cmp_attention alone
  int64_t sel_block_size;       // l', a divisor or a multiple of 64; and where cmp_attention
                                // chooses, a multiple of the stride
  int64_t num_selected_blocks;  // n
  int64_t num_initial_blocks;   // of cmp_attention, as the next
  int64_t num_local_blocks;
  int64_t window_size;  // w ≥ 1, of window_attention
  double scale;         // > 0
  const float* q;       // [num_tokens, num_q_heads, head_dim_k]
  const float* k;       // [K, num_kv_heads, head_dim_k]
  const float* v;       // [K, num_kv_heads, head_dim_v]
  /// [num_tokens, num_kv_heads, n]: of selected_attention read, each block once or −1; of
  /// cmp_attention's forward written, or null.
  int32_t* selected;
  float* out;             // [num_tokens, num_q_heads, head_dim_v]; backward: read
  float* lse;             // [num_tokens, num_q_heads]; backward: read
  const float* grad_out;  // backward: as out
  float* grad_q;          // backward: as q
  float* grad_k;          // backward: as k
  float* grad_v;          // backward: as v
  int64_t dtype;          // as in nsa_grad_windows
} nsa_grad_attention;

int32_t nsa_grad_cmp_attention_forward(nsa_context* context, const nsa_grad_attention* call);
int32_t nsa_grad_cmp_attention_backward(nsa_context* context, const nsa_grad_attention* call);
int32_t nsa_grad_selected_attention_forward(nsa_context* context, const nsa_grad_attention* call);
int32_t nsa_grad_selected_attention_backward(nsa_context* context, const nsa_grad_attention* call);
int32_t nsa_grad_window_attention_forward(nsa_context* context, const nsa_grad_attention* call);
int32_t nsa_grad_window_attention_backward(nsa_context* context, const nsa_grad_attention* call);

#ifdef __cplusplus
}  // extern "C"
#endif

#endif  // NSA_KERNELS_C_API_H_
