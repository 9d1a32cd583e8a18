#include "kernels/ops/cmp_pool.h"

#include <vector>

#include "kernels/reference/paged_attention.h"
#include "kernels/reference/reference.h"

namespace nsa::kernels::reference {
namespace {

/// The mean key of a window in the frame of the page of its last token, or of the sequence.
///
/// A key stored in page p stands in p's frame. Going to the next page, the sum so far is turned
/// back by one page, so that it stands in that page's frame.
std::vector<float> PoolKeys(const CmpPoolParams& params, const AttentionSegment& segment,
                            int kv_head, int64_t first_token) {
  const PagedRows rows = TokenRows(params.kv);
  const bool unrotated = params.pooled_keys == PooledKeys::kUnrotated && params.rope.rotary_dim > 0;
  const int64_t first_page = first_token / kPageSize;
  std::vector<float> sum(rows.head_dim_k, 0.0f);
  std::vector<float> key(rows.head_dim_k);
  for (int64_t token = first_token; token < first_token + params.length; ++token) {
    const int64_t page = token / kPageSize;
    const int offset = static_cast<int>(token % kPageSize);
    if (!unrotated && offset == 0 && page > first_page) {
      RotateCoarse(params.rope, 1, Direction::kBackward, sum.data());
    }
    for (int dim = 0; dim < rows.head_dim_k; ++dim) {
      key[dim] = rows.Key(segment.page_table[page], kv_head, dim, offset);
    }
    if (unrotated) RotateFine(params.rope, offset, Direction::kBackward, key.data());
    for (int dim = 0; dim < rows.head_dim_k; ++dim) sum[dim] += key[dim];
  }
  for (float& x : sum) x /= static_cast<float>(params.length);
  const int64_t last_page = (first_token + params.length - 1) / kPageSize;
  if (unrotated) {
    RotateFine(params.rope, first_token % kPageSize, Direction::kForward, sum.data());
    RotateCoarse(params.rope, last_page - first_page, Direction::kBackward, sum.data());
  }
  if (params.kv.cmp_absolute) {
    RotateCoarse(params.rope, last_page, Direction::kForward, sum.data());
  }
  return sum;
}

void WriteWindow(const CmpPoolParams& params, const AttentionSegment& segment, int kv_head,
                 int64_t window) {
  const PagedKv& kv = params.kv;
  const int rows_per_page = kPageSize / params.stride;
  const CmpSlot slot = FindCmpSlot(window, params.length, params.stride);
  std::byte* target = kv.cmp_slots + segment.page_table[slot.page_index] * kv.cmp_page_stride +
                      kv_head * kv.cmp_head_stride;
  const std::vector<float> key = PoolKeys(params, segment, kv_head, window * params.stride);
  for (int dim = 0; dim < kv.head_dim_k; ++dim) {
    StoreElement(kv.cmp_dtype, target, int64_t{dim} * rows_per_page + slot.slot, key[dim]);
  }
  if (kv.cmp_v_offset < 0) return;
  const PagedRows rows = TokenRows(kv);
  for (int dim = 0; dim < kv.head_dim_v; ++dim) {
    float sum = 0;
    for (int i = 0; i < params.length; ++i) {
      const int64_t token = window * params.stride + i;
      sum += rows.Value(segment.page_table[token / kPageSize], kv_head,
                        static_cast<int>(token % kPageSize), dim);
    }
    StoreElement(kv.cmp_dtype, target + kv.cmp_v_offset, int64_t{slot.slot} * kv.head_dim_v + dim,
                 sum / static_cast<float>(params.length));
  }
}

}  // namespace

void CmpPool(const CmpPoolParams& params) {
  for (int s = 0; s < params.num_segments; ++s) {
    const AttentionSegment& segment = params.segments[s];
    const WindowRange closed = ClosedWindows(segment, params.length, params.stride);
    for (int64_t window = closed.first; window < closed.end; ++window) {
      for (int head = 0; head < params.kv.num_kv_heads; ++head) {
        WriteWindow(params, segment, head, window);
      }
    }
  }
}

}  // namespace nsa::kernels::reference
