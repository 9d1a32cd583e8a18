#include "kernels/ops/cmp_scatter.h"

#include <vector>

#include "kernels/reference/compressed_rows.h"
#include "kernels/reference/paged_attention.h"
#include "kernels/reference/reference.h"

namespace nsa::kernels::reference {
namespace {

/// A window's key at its first position, in the frame of the page of its last token, or of the
/// sequence.
void TurnKey(const CmpScatterParams& params, int64_t window, float* key) {
  if (params.rope.rotary_dim == 0) return;
  const int64_t first = window * params.rows.stride;
  const int64_t first_page = first / kPageSize;
  RotateFine(params.rope, first % kPageSize, Direction::kForward, key);
  if (params.rows.kv.cmp_absolute) {
    RotateCoarse(params.rope, first_page, Direction::kForward, key);
  } else {
    const int64_t last_page = (first + params.rows.length - 1) / kPageSize;
    RotateCoarse(params.rope, last_page - first_page, Direction::kBackward, key);
  }
}

}  // namespace

void CmpScatter(const CmpScatterParams& params) {
  const CompressedRows& rows = params.rows;
  const PagedKv& kv = rows.kv;
  const int head_dim = rows.head_dim(), rows_per_page = kPageSize / rows.stride;
  ForEachCmpRow(rows, [&](int64_t row, const CmpRowPlace& place) {
    const float* x = params.x + row * head_dim;
    std::vector<float> turned(x, x + head_dim);
    if (!rows.values) TurnKey(params, place.window, turned.data());
    const CmpSlot slot = FindCmpSlot(place.window, rows.length, rows.stride);
    std::byte* target = kv.cmp_slots +
                        place.segment->page_table[slot.page_index] * kv.cmp_page_stride +
                        place.kv_head * kv.cmp_head_stride;
    for (int dim = 0; dim < head_dim; ++dim) {
      if (rows.values) {
        StoreElement(kv.cmp_dtype, target + kv.cmp_v_offset, int64_t{slot.slot} * head_dim + dim,
                     turned[dim]);
      } else {
        StoreElement(kv.cmp_dtype, target, int64_t{dim} * rows_per_page + slot.slot, turned[dim]);
      }
    }
  });
}

}  // namespace nsa::kernels::reference
