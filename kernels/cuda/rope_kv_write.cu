#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "kernels/cuda/cuda.h"
#include "kernels/cuda/elements.h"
#include "kernels/cuda/int8_row.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/paged.h"
#include "kernels/cuda/reduce.h"
#include "kernels/cuda/rotate.h"
#include "kernels/cuda/rows.h"

namespace nsa::kernels::cuda {
namespace {

constexpr int kThreads = 64;  // a warp for K, one for V

struct Args {
  RopeKvWriteParams params;
  bool one_row_each;
};

/// Element `dim` of the key, rotated by its token's offset in the page.
NSA_DEVICE float RotatedKey(const RopeView& rope, const float* k, int64_t offset, int dim) {
  const int half = rope.rotary_dim / 2;
  if (dim >= 2 * half) return k[dim];
  const int i = dim < half ? dim : dim - half;
  const Pair rotated = RotateFine(rope, offset, i, 1, {k[i], k[i + half]});
  return dim < half ? rotated.a : rotated.b;
}

/// Stores value(i), i in [0, count), to target[i · step], by one warp. `scale` is written for int8.
template <typename T, typename Value>
NSA_DEVICE void StoreRow(T* target, int64_t step, int count, float* scale, Value&& value) {
  if constexpr (std::is_same_v<T, int8_t>) {
    float largest = 0;
    for (int i = LaneIndex(); i < count; i += kWarpSize) {
      largest = MaxOrNan(largest, Abs(value(i)));
    }
    const RowScale of_row = ScaleOf(WarpMaxOrNan(largest));
    for (int i = LaneIndex(); i < count; i += kWarpSize) {
      target[i * step] = RoundToInt8(value(i), of_row);
    }
    if (LaneIndex() == 0) *scale = of_row.scale;
  } else {
    for (int i = LaneIndex(); i < count; i += kWarpSize) {
      target[i * step] = FromFloat<T>(value(i));
    }
  }
}

/// CTA (r, g): the K and V of row r and KV head g.
template <typename T>
NSA_KERNEL(kThreads)
RopeKvWriteKernel(NSA_ARGS Args args) {
  const RopeKvWriteParams& p = args.params;
  const SegmentRow row = FindRow(p.segments, args.one_row_each, CtaX());
  const int64_t page = row.page_table[row.position / kPageSize];
  const int64_t offset = row.position % kPageSize;
  std::byte* slot = HeadSlot(p.kv, page, CtaY());
  float* scales = ElementsAt<float>(slot, p.kv.scale_offset) + offset;
  if (WarpIndex() == 0) {
    const float* k = p.k + row.row * p.k_stride + CtaY() * p.kv.head_dim_k;
    StoreRow(ElementsAt<T>(slot, 0) + offset, kPageSize, p.kv.head_dim_k, scales,
             [&](int dim) { return RotatedKey(p.rope, k, offset, dim); });
  } else {
    const float* v = p.v + row.row * p.v_stride + CtaY() * p.kv.head_dim_v;
    StoreRow(ElementsAt<T>(slot, p.kv.v_offset) + offset * p.kv.head_dim_v, 1, p.kv.head_dim_v,
             scales + kPageSize, [&](int dim) { return v[dim]; });
  }
}

}  // namespace

void RopeKvWrite(Stream& stream, const RopeKvWriteParams& params, const SegmentsShape& shape) {
  const LaunchShape launch = {.name = "rope_kv_write",
                              .grid_x = shape.num_rows,
                              .grid_y = params.kv.num_kv_heads,
                              .num_threads = kThreads};
  WithElementType(params.kv.dtype, [&](auto element) {
    Launch(stream, launch, RopeKvWriteKernel<decltype(element)>, Args{params, shape.one_row_each});
  });
}

}  // namespace nsa::kernels::cuda
