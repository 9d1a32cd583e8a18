#include "kernels/ops/rope_kv_write.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "kernels/check.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/paged_attention.h"
#include "kernels/quant.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/rope_kv_write.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "kernels/cpu/attention-inl.h"

HWY_BEFORE_NAMESPACE();
namespace nsa::kernels::cpu {
namespace HWY_NAMESPACE {

HWY_INLINE void RoundToCache(const float* from, int count, float* to) {
  std::memcpy(to, from, sizeof(float) * count);
}
HWY_INLINE void RoundToCache(const float* from, int count, hwy::float16_t* to) {
  for (int i = 0; i < count; ++i) to[i].bits = F32ToF16(from[i]);
}
/// As F32ToBF16, a vector at a time.
HWY_INLINE void RoundToCache(const float* from, int count, hwy::bfloat16_t* to) {
  const F32Tag d;
  const hn::RebindToUnsigned<F32Tag> du;
  const hn::Rebind<uint16_t, F32Tag> d16;
  const int lanes = static_cast<int>(hn::Lanes(d));
  int i = 0;
  for (; i + lanes <= count; i += lanes) {
    const auto x = hn::LoadU(d, from + i);
    const auto bits = hn::BitCast(du, x);
    const auto high = hn::ShiftRight<16>(bits);
    const auto half = hn::Add(hn::Set(du, 0x7FFF), hn::And(high, hn::Set(du, 1)));
    const auto rounded = hn::ShiftRight<16>(hn::Add(bits, half));
    const auto nan = hn::Or(high, hn::Set(du, 0x40));
    const auto result = hn::IfThenElse(hn::RebindMask(du, hn::IsNaN(x)), nan, rounded);
    hn::StoreU(hn::TruncateTo(d16, result), d16, reinterpret_cast<uint16_t*>(to + i));
  }
  for (; i < count; ++i) {
    const uint16_t bits = F32ToBF16(from[i]);
    std::memcpy(to + i, &bits, 2);
  }
}

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
  T* values = reinterpret_cast<T*>(slot + kv.v_offset);
  for (int32_t i = 0; i < tile.num_rows; ++i) {
    const int64_t row = tile.Row(i).row;
    const int64_t offset = first_offset + i;
    RotateRow(rope.fine_cos + offset * half, rope.fine_sin + offset * half, half, kv.head_dim_k,
              params.k + row * params.k_stride + int64_t{head} * kv.head_dim_k, rotated);
    RoundToCache(rotated, kv.head_dim_k, rounded + int64_t{i} * kv.head_dim_k);
    RoundToCache(params.v + row * params.v_stride + int64_t{head} * kv.head_dim_v, kv.head_dim_v,
                 values + offset * kv.head_dim_v);
  }
  T* keys = reinterpret_cast<T*>(slot) + first_offset;
  for (int dim = 0; dim < kv.head_dim_k; ++dim) {
    for (int32_t i = 0; i < tile.num_rows; ++i) {
      keys[dim * kPageSize + i] = rounded[int64_t{i} * kv.head_dim_k + dim];
    }
  }
}

void WriteTile(const RopeKvWriteParams& params, const RowTile& tile, int head, Scratch& scratch) {
  switch (params.kv.dtype) {
    case DType::kF32:
      return WriteTyped<float>(params, tile, head, scratch);
    case DType::kF16:
      return WriteTyped<hwy::float16_t>(params, tile, head, scratch);
    case DType::kBF16:
      return WriteTyped<hwy::bfloat16_t>(params, tile, head, scratch);
  }
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
  const std::vector<RowTile> tiles = MakeTiles(params.segments, params.num_segments, kPageSize);
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
