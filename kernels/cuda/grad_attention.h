#ifndef NSA_KERNELS_CUDA_GRAD_ATTENTION_H_
#define NSA_KERNELS_CUDA_GRAD_ATTENTION_H_

#include <cstdint>

#include "kernels/cuda/device_types.h"
#include "kernels/cuda/grad_shape.h"
#include "kernels/grad/device.h"
#include "kernels/tensor.h"

/// The launches that grad_device.cu makes a call of kernels/grad of. Every pointer is the device's.
namespace nsa::kernels::cuda {

/// Elements T: float or Bf16.
struct GradForward {
  GradShape shape;
  const void* q;
  const void* k;
  const void* v;
  void* out;
  float* lse;
};

struct GradBackward {
  GradShape shape;
  const void* q;
  const void* k;
  const void* v;
  const void* out;
  const float* lse;
  const void* grad_out;
  void* grad_q;
  void* grad_k;
  void* grad_v;
  float* deltas;  // [num_tokens, num_q_heads]: Σ grad_out·out
};

/// How dK and dV are cut: a key tile's queries, in rising order, into items of `max_queries`. Where
/// it has several, each leaves its sums in a slot of its own, and these are added in order.
struct GradPlan {
  int64_t num_tiles;  // key tiles of all KV heads
  int64_t max_items;  // that there can be
  int64_t max_slots;
  int max_queries;       // of an item
  int32_t* item_begins;  // [num_tiles + 1]
  int32_t* slot_begins;  // [num_tiles + 1]
  float* slots;          // [slots, 64, dim_k + dim_v]
};

/// Line tiles [begin, end), whose choices are made together.
struct GradChoice {
  GradForward forward;
  int num_initial_blocks;
  int num_local_blocks;
  int64_t begin;
  int64_t end;
  int64_t max_windows;  // of a sequence
  int64_t max_blocks;   // of a sequence
  // [line tiles, tile_queries, num_kv_heads, max_windows]: Σ of the group's probabilities
  float* probabilities;
  uint32_t* keys;     // [line tiles, tile_queries, num_kv_heads, max_blocks]
  int32_t* selected;  // [num_tokens, num_kv_heads, num_selected]
};

/// Whether a call goes through tensor cores: bfloat16 rows of whole 16 bytes, of up to 192 and 128
/// dimensions, at addresses that are multiples of 16.
bool HasTensorShape(DType dtype, int dim_k, int dim_v);

/// shape.masks from lists [num_tokens, num_kv_heads, num_selected]. An entry that is −1, or names
/// no block of the sequence that begins at or before the query, is passed over.
void GradMasks(Stream& stream, const GradShape& shape, const int32_t* selected);

void GradAttentionForward(Stream& stream, DType dtype, bool has_tensors, const GradForward& call);
void GradChoose(Stream& stream, DType dtype, bool has_tensors, const GradChoice& call);

void GradDeltas(Stream& stream, DType dtype, const GradBackward& call);
void GradAttentionQueries(Stream& stream, DType dtype, bool has_tensors, const GradBackward& call);
/// Writes item_begins and slot_begins.
void GradPlanKeys(Stream& stream, const GradShape& shape, const GradPlan& plan);
/// On tensor cores alone `plan` is read.
void GradAttentionKeys(Stream& stream, DType dtype, bool has_tensors, const GradBackward& call,
                       const GradPlan& plan);

/// Windows of `shape`, whose places count tokens and keys, the windows; dim_k dimensions of
/// num_kv_heads heads.
struct GradWindows {
  GradShape shape;
  const void* x;
  const void* position;
  void* windows;
  const void* grad_windows;
  void* grad_x;
  void* grad_position;
  float* parts;  // [⌈windows / kWindowsOfPart⌉, length, dim_k]: of grad_position
};
inline constexpr int kWindowsOfPart = 128;

void GradGatherWindows(Stream& stream, DType dtype, const GradWindows& call);
void GradGatherWindowsBackward(Stream& stream, DType dtype, const GradWindows& call);
void GradMeanWindows(Stream& stream, DType dtype, const GradWindows& call);
void GradMeanWindowsBackward(Stream& stream, DType dtype, const GradWindows& call);

/// Calls body(T{}) with the element type.
template <typename Body>
void WithGradType(DType dtype, Body&& body) {
  if (dtype == DType::kBF16) return body(Bf16{});
  body(float{});
}

}  // namespace nsa::kernels::cuda

#endif  // NSA_KERNELS_CUDA_GRAD_ATTENTION_H_
