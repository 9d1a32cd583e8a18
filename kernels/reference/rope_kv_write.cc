#include "kernels/ops/rope_kv_write.h"

#include <vector>

#include "kernels/reference/paged_attention.h"
#include "kernels/reference/reference.h"

namespace nsa::kernels::reference {

void RopeKvWrite(const RopeKvWriteParams& params) {
  const PagedKv& kv = params.kv;
  ForEachRow(params.segments, params.num_segments,
             [&](const AttentionSegment& segment, int64_t row, int64_t position) {
               const int64_t page = segment.page_table[position / kPageSize];
               const int64_t offset = position % kPageSize;
               for (int head = 0; head < kv.num_kv_heads; ++head) {
                 std::byte* slot = kv.slots + page * kv.page_stride + head * kv.head_stride;
                 const float* k = params.k + row * params.k_stride + int64_t{head} * kv.head_dim_k;
                 std::vector<float> rotated(k, k + kv.head_dim_k);
                 if (params.rope.rotary_dim > 0) {
                   RotateFine(params.rope, offset, Direction::kForward, rotated.data());
                 }
                 for (int dim = 0; dim < kv.head_dim_k; ++dim) {
                   StoreElement(kv.dtype, slot, int64_t{dim} * kPageSize + offset, rotated[dim]);
                 }
                 const float* v = params.v + row * params.v_stride + int64_t{head} * kv.head_dim_v;
                 for (int dim = 0; dim < kv.head_dim_v; ++dim) {
                   StoreElement(kv.dtype, slot + kv.v_offset, offset * kv.head_dim_v + dim, v[dim]);
                 }
               }
             });
}

}  // namespace nsa::kernels::reference
