#ifndef NSA_KERNELS_OPS_ATTENTION_H_
#define NSA_KERNELS_OPS_ATTENTION_H_

#include <cstddef>
#include <cstdint>

#include "kernels/tensor.h"

namespace nsa::kernels {

/// Rotary tables, split as page · 64 + offset, so that a rotation by any distance is two table
/// look-ups: RoPE(64·m + r) = coarse[m] ∘ fine[r]. Pairs are (i, i + rotary_dim/2) ("half split");
/// models with interleaved pairs permute their Q and K rows when they load.
struct RopeView {
  const float* fine_cos = nullptr;    // [64, rotary_dim/2]
  const float* fine_sin = nullptr;    // [64, rotary_dim/2]
  const float* coarse_cos = nullptr;  // [num_coarse, rotary_dim/2]
  const float* coarse_sin = nullptr;  // [num_coarse, rotary_dim/2]
  int64_t num_coarse = 0;
  int rotary_dim =
      0;  // even, ≤ head_dim_k; 0: no rotation. Dimensions from rotary_dim on pass through
};

/// One layer of the paged cache.
///
/// K is stored rotated by its token's offset inside the page (0…63) and V as it is. So a page's
/// content does not depend on where the page stands, and a page placed at p' is read with the query
/// rotated by (query position − p') (algorithm.md §3).
/// A compressed row belongs to the page that holds its window's last token. In page p, slot s holds
/// window i where (i·stride + length) / stride = p·rows_per_page + s + 1; that is
/// i = p·rows_per_page + s + 1 − length/stride, and slots of negative i are never read. A
/// compressed key is in the frame of that page: rotated so that page p's own query rotation applies
/// to it; or, where `cmp_absolute` holds, in the frame of the sequence: rotated by that page's
/// place, so that one rotation of the query by its own place serves all pages. Then distances
/// cannot be limited. Where rows are the clusters of a page (cmp_cluster), slot s holds cluster s
/// of its own page, and has a bias for its score.
///
/// Where dtype is kInt8, each token's K and each token's V have a scale (float32): the largest
/// magnitude of the rotated key, or the value, divided by 127; NaN where the row is not finite.
/// kF8E4M3 has none: elements are stored as they are, magnitudes beyond 448 as 448.
/// Where cmp_dtype is kInt8, each compressed key has such a scale, and dimensions stand in fours,
/// as products of 8-bit integers take them: K̂ [⌈head_dim_k/4⌉, rows_per_page, 4], 0 behind the
/// last dimension.
struct PagedKv {
  DType dtype = DType::kBF16;      // of K and V
  DType cmp_dtype = DType::kBF16;  // of the compressed rows; of clusters kF32 or kInt8
  int num_kv_heads = 0;
  int head_dim_k = 0;
  int head_dim_v = 0;
  std::byte* slots =
      nullptr;                // [num_pages, num_kv_heads, {K [head_dim_k, 64], V [64, head_dim_v]}]
  int64_t page_stride = 0;    // bytes
  int64_t head_stride = 0;    // bytes
  int64_t v_offset = 0;       // bytes from a head's K to its V
  int64_t scale_offset = -1;  // bytes from a head's K to its scales {K [64], V [64]} of kInt8
  // Where slots come and go, a page's slot stands at place places[page · places_stride], in this
  // layer, and not at the page's own; on the device. Null: the page's index is its place. (On the
  // CPU it always is: there memory comes and goes under one address.)
  const int32_t* places = nullptr;
  int64_t places_stride = 0;
  // Null where the plan has no compressed rows. Of V̂ (of windows), scales (of kInt8) and biases
  // (of clusters) those are there whose offset is not negative. Scales and biases are float32.
  // A head's rows of a page: {K̂ [head_dim_k, rows_per_page], V̂ [rows_per_page, head_dim_v],
  // scales [rows_per_page], biases [rows_per_page]}, at cmp_slots + page · cmp_page_stride + head ·
  // cmp_head_stride and the offsets from there: whether pages or heads stand beside each other, and
  // K̂ beside V̂, is the cache's choice.
  std::byte* cmp_slots = nullptr;
  bool cmp_absolute = false;      // compressed keys stand in the frame of the sequence
  int64_t cmp_page_stride = 0;    // bytes
  int64_t cmp_head_stride = 0;    // bytes
  int64_t cmp_v_offset = -1;      // bytes from a head's K̂ to its V̂
  int64_t cmp_scale_offset = -1;  // bytes from a head's K̂ to its scales: CmpInt8KeyBytes()
  int64_t cmp_bias_offset = -1;   // bytes from a head's K̂ to its biases
};

/// Bytes of a page's K̂ for one head where cmp_dtype is kInt8: whole cache lines, so that a vector
/// may be read beyond the last row.
constexpr int64_t CmpInt8KeyBytes(int head_dim_k, int rows_per_page) {
  const int64_t quads = int64_t{(head_dim_k + 3) / 4} * rows_per_page;
  return (4 * quads + 63) / 64 * 64;
}

/// Consecutive query rows of one sequence, at consecutive positions.
struct AttentionSegment {
  const int32_t* page_table = nullptr;  // [⌈(position + num_rows) / 64⌉] page indices
  int64_t position = 0;                 // of its first row; position + row is that row's t
  int32_t row_begin = 0;                // index of its first row in the call's row arrays
  int32_t num_rows = 0;
};

/// What products of queries and softmax weights with rows of 16-bit or 8-bit floats may round (an
/// int8 cache has such compressed rows). Either way a row's bits are the same in every batch.
enum class AttentionPrecision : uint8_t {
  kFloat32,      // nothing: like products of float32
  kSixteenBits,  // queries and weights, once, to what tensor cores take, as in FlashAttention-2
                 // (Dao 2023): bfloat16 with a cache of it, else float16. Sums stay float32. The
                 // CPU has no use for it, and goes by kFloat32
};

/// What every attention operator reads. A row at position t sees tokens ≤ t.
struct AttentionQuery {
  const float* q = nullptr;  // [num_rows, num_q_heads, head_dim_k], not rotated
  int64_t q_stride = 0;      // floats from a row to the next
  int num_q_heads = 0;       // a multiple of kv.num_kv_heads; query head h reads KV head h / group
  float scale = 1;           // of q·k
  const AttentionSegment* segments = nullptr;  // [num_segments]; together they cover all rows
  int num_segments = 0;
  PagedKv kv;
  RopeView rope;
  AttentionPrecision precision = AttentionPrecision::kFloat32;
};

/// Where a branch leaves its result. An empty branch (nothing to read) gives output 0 and
/// log-sum-exp −inf.
struct BranchOutput {
  float* out = nullptr;  // [num_rows, num_q_heads, head_dim_v], dense
  float* lse = nullptr;  // [num_rows, num_q_heads]: log Σ exp(scale·q·k)
};

/// First token of the window of the query at `position` (algorithm.md §3): the window's
/// `window_size` tokens are rounded up to whole pages, plus the query's own page. window_size is a
/// multiple of 64.
constexpr int64_t PageAlignedWindowStart(int64_t position, int64_t window_size) {
  const int64_t page = position / kPageSize - window_size / kPageSize;
  return page > 0 ? page * kPageSize : 0;
}

}  // namespace nsa::kernels

#endif  // NSA_KERNELS_OPS_ATTENTION_H_
