#include "kernels/ops/rope_kv_write.h"

#include <cmath>
#include <cstdint>
#include <vector>

#include "kernels/int8_rows.h"
#include "kernels/reference/paged_attention.h"
#include "kernels/reference/reference.h"

namespace nsa::kernels::reference {
namespace {

/// A key or a value, and where it goes: element i to index first + i·step behind `offset`.
struct NewRow {
  std::vector<float> x;
  int64_t offset;  // bytes into the slot
  int64_t first;
  int64_t step;
};

/// `scale_index` counts the scales of a kInt8 cache.
void StoreRow(const PagedKv& kv, std::byte* slot, int64_t scale_index, const NewRow& row) {
  std::byte* target = slot + row.offset;
  if (kv.dtype != DType::kInt8) {
    for (size_t i = 0; i < row.x.size(); ++i) {
      StoreElement(kv.dtype, target, row.first + static_cast<int64_t>(i) * row.step, row.x[i]);
    }
    return;
  }
  float largest = 0;
  for (const float x : row.x) {
    if (std::isnan(x) || std::abs(x) > largest) largest = std::abs(x);
  }
  const Int8RowScale scale(largest);
  for (size_t i = 0; i < row.x.size(); ++i) {
    const float q = scale.inverse == 0 ? 0 : std::nearbyint(row.x[i] * scale.inverse);
    target[row.first + static_cast<int64_t>(i) * row.step] =
        static_cast<std::byte>(static_cast<int8_t>(q));
  }
  StoreElement(DType::kF32, slot + kv.scale_offset, scale_index, scale.scale);
}

}  // namespace

void RopeKvWrite(const RopeKvWriteParams& params) {
  const PagedKv& kv = params.kv;
  ForEachRow(params.segments, params.num_segments,
             [&](const AttentionSegment& segment, int64_t row, int64_t position) {
               int64_t page = segment.page_table[position / kPageSize];
               if (kv.places != nullptr) page = kv.places[page * kv.places_stride];
               const int64_t offset = position % kPageSize;
               for (int head = 0; head < kv.num_kv_heads; ++head) {
                 std::byte* slot = kv.slots + page * kv.page_stride + head * kv.head_stride;
                 const float* k = params.k + row * params.k_stride + int64_t{head} * kv.head_dim_k;
                 std::vector<float> rotated(k, k + kv.head_dim_k);
                 if (params.rope.rotary_dim > 0) {
                   RotateFine(params.rope, offset, Direction::kForward, rotated.data());
                 }
                 StoreRow(kv, slot, offset, {rotated, 0, offset, kPageSize});
                 const float* v = params.v + row * params.v_stride + int64_t{head} * kv.head_dim_v;
                 StoreRow(kv, slot, kPageSize + offset,
                          {{v, v + kv.head_dim_v}, kv.v_offset, offset * kv.head_dim_v, 1});
               }
             });
}

}  // namespace nsa::kernels::reference
