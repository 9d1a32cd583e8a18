#include "kernels/ops/cmp_gather.h"

#include <cstdint>
#include <type_traits>

#include "kernels/cpu/compressed_rows.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/elements.h"

namespace nsa::kernels::cpu {
namespace {

/// One window of one KV head.
template <typename T>
void GatherWindow(const CompressedRows& rows, const CmpRowPlace& place, const float* position,
                  float* y) {
  const PagedKv& kv = rows.kv;
  const int head_dim = rows.head_dim();
  const int64_t first_token = place.window * rows.stride;
  const int dim_step = rows.values ? 1 : kPageSize, token_step = rows.values ? head_dim : 1;
  for (int i = 0; i < rows.length; ++i) {
    const int64_t token = first_token + i;
    const int offset = static_cast<int>(token % kPageSize);
    const std::byte* slot = kv.slots +
                            place.segment->page_table[token / kPageSize] * kv.page_stride +
                            place.kv_head * kv.head_stride;
    const T* x = reinterpret_cast<const T*>(slot + (rows.values ? kv.v_offset : 0)) +
                 int64_t{offset} * token_step;
    float scale = 1;
    if constexpr (std::is_same_v<T, int8_t>) {
      const auto* scales = reinterpret_cast<const float*>(slot + kv.scale_offset);
      scale = scales[(rows.values ? kPageSize : 0) + offset];
    }
    const int64_t begin = int64_t{i} * head_dim;
    for (int dim = 0; dim < head_dim; ++dim) {
      const float element = ToFloat(x[int64_t{dim} * dim_step]);
      y[begin + dim] =
          (std::is_same_v<T, int8_t> ? element * scale : element) + position[begin + dim];
    }
  }
}

}  // namespace

void CmpGather(Context& context, const CmpGatherParams& params) {
  const CompressedRows& rows = params.rows;
  const int64_t row_floats = int64_t{rows.length} * rows.head_dim();
  WithElementType(rows.kv.dtype, [&]<typename T>(T) {
    ForEachCmpRow(context, rows, [&](int64_t row, const CmpRowPlace& place, Scratch&) {
      GatherWindow<T>(rows, place, params.position, params.y + row * row_floats);
    });
  });
}

}  // namespace nsa::kernels::cpu
