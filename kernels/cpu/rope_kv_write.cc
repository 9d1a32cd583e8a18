#include "kernels/ops/rope_kv_write.h"

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "kernels/check.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/paged_attention.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/rope_kv_write.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "kernels/cpu/attention-inl.h"

HWY_BEFORE_NAMESPACE();
namespace nsa::kernels::cpu {
namespace HWY_NAMESPACE {

/// Writes one KV head of a tile's tokens. Keys are rounded token by token into `scratch`, then
/// turned around: in the page a dimension's tokens stand side by side.
template <typename T>
void WriteTyped(const RopeKvWriteParams& params, const RowTile& tile, int head, Scratch& scratch) {
  const PagedKv& kv = params.kv;
  const RopeView& rope = params.rope;
  const int half = rope.rotary_dim / 2;
  float* rotated = scratch.Get<float>(static_cast<size_t>(kv.head_dim_k) * (kPageSize + 1));
  T* rounded = reinterpret_cast<T*>(rotated + kv.head_dim_k);
  const int64_t first = tile.Row(0).position;
  std::byte* slot = kv.slots + tile.segment->page_table[first / kPageSize] * kv.page_stride +
                    head * kv.head_stride;
  const int64_t first_offset = first % kPageSize;
  T* keys = reinterpret_cast<T*>(slot) + first_offset;
  // A token's key is an element in each of so many lines, which come while it is rotated.
  for (int dim = 0; dim < kv.head_dim_k; ++dim) __builtin_prefetch(keys + dim * kPageSize, 1);
  T* values = reinterpret_cast<T*>(slot + kv.v_offset);
  float* scales = reinterpret_cast<float*>(slot + kv.scale_offset);  // of kInt8 alone
  const auto store = [scales](const float* from, int count, T* to, int64_t scale_index) {
    if constexpr (std::is_same_v<T, int8_t>) {
      scales[scale_index] = QuantiseRow(from, count, to);
    } else {
      RoundToCache(from, count, to);
    }
  };
  for (int32_t i = 0; i < tile.num_rows; ++i) {
    const int64_t row = tile.Row(i).row;
    const int64_t offset = first_offset + i;
    RotateRow(rope.fine_cos + offset * half, rope.fine_sin + offset * half, half, kv.head_dim_k,
              params.k + row * params.k_stride + int64_t{head} * kv.head_dim_k, rotated);
    store(rotated, kv.head_dim_k, rounded + int64_t{i} * kv.head_dim_k, offset);
    store(params.v + row * params.v_stride + int64_t{head} * kv.head_dim_v, kv.head_dim_v,
          values + offset * kv.head_dim_v, kPageSize + offset);
  }
  for (int dim = 0; dim < kv.head_dim_k; ++dim) {
    for (int32_t i = 0; i < tile.num_rows; ++i) {
      keys[dim * kPageSize + i] = rounded[int64_t{i} * kv.head_dim_k + dim];
    }
  }
}

void WriteTile(const RopeKvWriteParams& params, const RowTile& tile, int head, Scratch& scratch) {
  WithCacheType(params.kv.dtype,
                [&]<typename T>(T) { WriteTyped<T>(params, tile, head, scratch); });
}

}  // namespace HWY_NAMESPACE
}  // namespace nsa::kernels::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace nsa::kernels::cpu {
namespace {
HWY_EXPORT(WriteTile);
}  // namespace

void RopeKvWrite(Context& context, const RopeKvWriteParams& params) {
  const ListScope scope(context);
  const List<RowTile> tiles = MakeTiles(params.segments, params.num_segments, kPageSize, scope);
  const int num_kv_heads = params.kv.num_kv_heads;
  context.pool.ParallelFor(static_cast<int64_t>(tiles.size()) * num_kv_heads,
                           [&](int64_t index, int worker) {
                             HWY_DYNAMIC_DISPATCH(WriteTile)
                             (params, tiles[index / num_kv_heads],
                              static_cast<int>(index % num_kv_heads), context.worker[worker]);
                           });
}

}  // namespace nsa::kernels::cpu
#endif  // HWY_ONCE
