#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "kernels/cuda/cuda.h"
#include "kernels/cuda/elements.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/paged.h"
#include "kernels/cuda/rotate.h"
#include "kernels/cuda/rows.h"

namespace nsa::kernels::cuda {
namespace {

constexpr int kThreads = 128;

struct Args {
  CmpPoolParams params;
  bool one_row_each;
};

/// The window that a CTA pools.
struct Window {
  const int32_t* page_table;
  int64_t first_token;
  int64_t last_page;  // in the sequence: that of its last token
  int64_t kv_head;
};

NSA_DEVICE const std::byte* SlotOf(const PagedKv& kv, const Window& w, int64_t page) {
  return HeadSlot(kv, w.page_table[page], w.kv_head);
}

/// The window's tokens in one of its pages: [begin, end).
struct PageTokens {
  int64_t begin;
  int64_t end;
};
NSA_DEVICE PageTokens TokensIn(const CmpPoolParams& p, const Window& w, int64_t page) {
  const int64_t begin = w.first_token - page * kPageSize, end = begin + p.length;
  return {begin > 0 ? begin : 0, end < kPageSize ? end : kPageSize};
}

/// The mean of pair i's keys, in the frame of the window's last page or of the sequence. The sum is
/// turned back by a page where it comes to the next one (reference/cmp_pool.cc).
template <typename T, bool kUnrotated>
NSA_DEVICE Pair PoolPair(const CmpPoolParams& p, const Window& w, int i) {
  const int half = p.rope.rotary_dim / 2;
  const int64_t first_page = w.first_token / kPageSize;
  Pair sum = {0, 0};
  for (int64_t page = first_page; page <= w.last_page; ++page) {
    if (!kUnrotated && page > first_page) sum = RotateCoarse(p.rope, 1, i, -1, sum);
    const std::byte* slot = SlotOf(p.kv, w, page);
    const PageTokens tokens = TokensIn(p, w, page);
    for (int64_t offset = tokens.begin; offset < tokens.end; ++offset) {
      Pair key = {LoadKey<T>(p.kv, slot, i, offset), LoadKey<T>(p.kv, slot, i + half, offset)};
      if (kUnrotated) key = RotateFine(p.rope, offset, i, -1, key);
      sum = {sum.a + key.a, sum.b + key.b};
    }
  }
  const auto length = static_cast<float>(p.length);
  sum = {sum.a / length, sum.b / length};
  if (kUnrotated) {
    sum = RotateFine(p.rope, w.first_token % kPageSize, i, 1, sum);
    sum = RotateCoarse(p.rope, w.last_page - first_page, i, -1, sum);
  }
  if (p.kv.cmp_absolute) sum = RotateCoarse(p.rope, w.last_page, i, 1, sum);
  return sum;
}

/// The mean of what load(slot, offset) reads of the window's tokens.
template <typename Load>
NSA_DEVICE float PoolPlain(const CmpPoolParams& p, const Window& w, Load&& load) {
  float sum = 0;
  for (int64_t page = w.first_token / kPageSize; page <= w.last_page; ++page) {
    const std::byte* slot = SlotOf(p.kv, w, page);
    const PageTokens tokens = TokensIn(p, w, page);
    for (int64_t offset = tokens.begin; offset < tokens.end; ++offset) sum += load(slot, offset);
  }
  return sum / static_cast<float>(p.length);
}

/// CTA (r, g): the window that row r closes, if it closes one, for KV head g. A thread has a pair,
/// a dimension that is not rotated, or a dimension of V; sums go over tokens in order.
template <typename T, bool kUnrotated>
NSA_KERNEL(kThreads)
CmpPoolKernel(NSA_ARGS Args args) {
  const CmpPoolParams& p = args.params;
  const PagedKv& kv = p.kv;
  const SegmentRow row = FindRow(p.segments, args.one_row_each, CtaX());
  const int64_t end = row.position + 1;
  // A page is 64 tokens and stride divides 64, so that offsets in a page tell which rows close one.
  if (end < p.length || end % kPageSize % p.stride != 0) return;
  const int64_t index = (end - p.length) / p.stride;
  const CmpSlot place = FindCmpSlot(index, p.length, p.stride);
  const Window w = {row.page_table, index * p.stride, place.page_index, CtaY()};
  const int64_t rows_per_page = kPageSize / p.stride;
  std::byte* target = kv.cmp_slots + row.page_table[place.page_index] * kv.cmp_page_stride +
                      CtaY() * kv.cmp_head_stride;
  const int half = p.rope.rotary_dim / 2;
  const auto store_key = [&](int dim, float mean) {
    StoreElement(kv.cmp_dtype, target, dim * rows_per_page + place.slot, mean);
  };
  for (int i = ThreadIndex(); i < kv.head_dim_k - half; i += kThreads) {
    if (i < half) {
      const Pair mean = PoolPair<T, kUnrotated>(p, w, i);
      store_key(i, mean.a);
      store_key(i + half, mean.b);
    } else {
      store_key(i + half, PoolPlain(p, w, [&](const std::byte* slot, int64_t offset) {
                  return LoadKey<T>(kv, slot, i + half, offset);
                }));
    }
  }
  if (kv.cmp_v_offset < 0) return;
  for (int dim = ThreadIndex(); dim < kv.head_dim_v; dim += kThreads) {
    const float mean = PoolPlain(p, w, [&](const std::byte* slot, int64_t offset) {
      return LoadValue<T>(kv, slot, dim, offset);
    });
    StoreElement(kv.cmp_dtype, target + kv.cmp_v_offset, int64_t{place.slot} * kv.head_dim_v + dim,
                 mean);
  }
}

}  // namespace

void CmpPool(Stream& stream, const CmpPoolParams& params, const SegmentsShape& shape) {
  const LaunchShape launch = {.name = "cmp_pool",
                              .grid_x = shape.num_rows,
                              .grid_y = params.kv.num_kv_heads,
                              .num_threads = kThreads};
  const Args args = {params, shape.one_row_each};
  NSA_CHECK(params.kv.cmp_dtype != DType::kInt8);
  WithElementType(params.kv.dtype, [&](auto element) {
    using T = decltype(element);
    if (params.pooled_keys == PooledKeys::kUnrotated) {
      return Launch(stream, launch, CmpPoolKernel<T, true>, args);
    }
    Launch(stream, launch, CmpPoolKernel<T, false>, args);
  });
}

}  // namespace nsa::kernels::cuda
