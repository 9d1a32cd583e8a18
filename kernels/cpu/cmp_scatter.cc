#include "kernels/ops/cmp_scatter.h"

#include <algorithm>
#include <cstdint>

#include "kernels/check.h"
#include "kernels/cpu/compressed_rows.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/elements.h"

namespace nsa::kernels::cpu {
namespace {

/// A window's key at its first position, in the frame of the page of its last token, or of the
/// sequence.
void TurnKey(const CmpScatterParams& params, int64_t window, float* key) {
  const RopeView& rope = params.rope;
  const int half = rope.rotary_dim / 2;
  if (half == 0) return;
  const int64_t first = window * params.rows.stride;
  const int64_t first_page = first / kPageSize;
  const int64_t last_page = (first + params.rows.length - 1) / kPageSize;
  const bool absolute = params.rows.kv.cmp_absolute;
  const int64_t num_pages = absolute ? first_page : last_page - first_page;
  NSA_CHECK(num_pages < rope.num_coarse);
  const int64_t fine = first % kPageSize * half, coarse = num_pages * half;
  RotateRow(rope.fine_cos + fine, rope.fine_sin + fine, half, 1, key);
  RotateRow(rope.coarse_cos + coarse, rope.coarse_sin + coarse, half, absolute ? 1 : -1, key);
}

}  // namespace

void CmpScatter(Context& context, const CmpScatterParams& params) {
  const CompressedRows& rows = params.rows;
  const PagedKv& kv = rows.kv;
  const int head_dim = rows.head_dim(), rows_per_page = kPageSize / rows.stride;
  NSA_CHECK(kv.cmp_dtype != DType::kInt8 && (!rows.values || kv.cmp_v_offset >= 0));
  ForEachCmpRow(context, rows, [&](int64_t row, const CmpRowPlace& place, Scratch& scratch) {
    const float* x = params.x + row * head_dim;
    float* turned = scratch.Get<float>(static_cast<size_t>(head_dim));
    std::copy_n(x, head_dim, turned);
    if (!rows.values) TurnKey(params, place.window, turned);
    const CmpSlot slot = FindCmpSlot(place.window, rows.length, rows.stride);
    std::byte* target = kv.cmp_slots +
                        place.segment->page_table[slot.page_index] * kv.cmp_page_stride +
                        place.kv_head * kv.cmp_head_stride + (rows.values ? kv.cmp_v_offset : 0);
    const int64_t first = rows.values ? int64_t{slot.slot} * head_dim : slot.slot;
    const int64_t step = rows.values ? 1 : rows_per_page;
    for (int dim = 0; dim < head_dim; ++dim) {
      StoreElement(kv.cmp_dtype, turned[dim], target, first + dim * step);
    }
  });
}

}  // namespace nsa::kernels::cpu
