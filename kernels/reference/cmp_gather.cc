#include "kernels/ops/cmp_gather.h"

#include "kernels/reference/compressed_rows.h"
#include "kernels/reference/paged_attention.h"
#include "kernels/reference/reference.h"

namespace nsa::kernels::reference {

void CmpGather(const CmpGatherParams& params) {
  const CompressedRows& rows = params.rows;
  const PagedRows tokens = TokenRows(rows.kv);
  const int head_dim = rows.head_dim();
  ForEachCmpRow(rows, [&](int64_t row, const CmpRowPlace& place) {
    for (int i = 0; i < rows.length; ++i) {
      const int64_t token = place.window * rows.stride + i;
      const int64_t page = place.segment->page_table[token / kPageSize];
      const int offset = static_cast<int>(token % kPageSize);
      float* y = params.y + (row * rows.length + i) * head_dim;
      for (int dim = 0; dim < head_dim; ++dim) {
        const float x = rows.values ? tokens.Value(page, place.kv_head, offset, dim)
                                    : tokens.Key(page, place.kv_head, dim, offset);
        y[dim] = x + params.position[int64_t{i} * head_dim + dim];
      }
    }
  });
}

}  // namespace nsa::kernels::reference
