#include "kernels/ops/cmp_pool.h"

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "kernels/check.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/elements.h"

namespace nsa::kernels::cpu {
namespace {

/// One window of one KV head.
template <typename T>
struct WindowPool {
  const CmpPoolParams& params;
  const AttentionSegment& segment;
  int kv_head;
  int64_t first_token;
  float* sum;  // [max(head_dim_k, head_dim_v)]
  float* key;  // [head_dim_k]

  int64_t end_token() const { return first_token + params.length; }
  const T* Slot(int64_t page, int64_t offset_bytes) const {
    return reinterpret_cast<const T*>(params.kv.slots +
                                      segment.page_table[page] * params.kv.page_stride +
                                      kv_head * params.kv.head_stride + offset_bytes);
  }

  /// Element of the cache times the scale of its row; `row` counts a page's keys, then its values.
  float Value(int64_t page, T x, int row) const {
    if constexpr (!std::is_same_v<T, int8_t>) return ToFloat(x);
    return ToFloat(x) * reinterpret_cast<const float*>(Slot(page, params.kv.scale_offset))[row];
  }

  /// Adds tokens [begin, end) of a page, as stored, in token order.
  void AddKeys(int64_t page, int begin, int end) {
    const T* keys = Slot(page, 0);
    for (int dim = 0; dim < params.kv.head_dim_k; ++dim) {
      float s = sum[dim];
      for (int token = begin; token < end; ++token) {
        s += Value(page, keys[dim * kPageSize + token], token);
      }
      sum[dim] = s;
    }
  }

  /// As AddKeys, each key turned back to offset 0 first.
  void AddUnrotatedKeys(int64_t page, int begin, int end) {
    const T* keys = Slot(page, 0);
    const int half = params.rope.rotary_dim / 2;
    for (int token = begin; token < end; ++token) {
      for (int dim = 0; dim < params.kv.head_dim_k; ++dim) {
        key[dim] = Value(page, keys[dim * kPageSize + token], token);
      }
      RotateRow(params.rope.fine_cos + token * half, params.rope.fine_sin + token * half, half, -1,
                key);
      for (int dim = 0; dim < params.kv.head_dim_k; ++dim) sum[dim] += key[dim];
    }
  }

  /// Turns the sum by whole pages: back into the frame of a later page, or forward to the
  /// sequence's.
  void Turn(int64_t num_pages, float sign) {
    const int half = params.rope.rotary_dim / 2;
    if (half == 0) return;
    NSA_CHECK(num_pages < params.rope.num_coarse);
    RotateRow(params.rope.coarse_cos + num_pages * half, params.rope.coarse_sin + num_pages * half,
              half, sign, sum);
  }

  void PoolKeys() {
    const int half = params.rope.rotary_dim / 2;
    const bool unrotated = params.pooled_keys == PooledKeys::kUnrotated && half > 0;
    const int64_t first_page = first_token / kPageSize;
    const int64_t last_page = (end_token() - 1) / kPageSize;
    std::fill_n(sum, params.kv.head_dim_k, 0.0f);
    for (int64_t page = first_page; page <= last_page; ++page) {
      const int begin = static_cast<int>(std::max<int64_t>(0, first_token - page * kPageSize));
      const int end =
          static_cast<int>(std::min<int64_t>(kPageSize, end_token() - page * kPageSize));
      if (unrotated) {
        AddUnrotatedKeys(page, begin, end);
      } else {
        if (page > first_page) Turn(1, -1);
        AddKeys(page, begin, end);
      }
    }
    for (int dim = 0; dim < params.kv.head_dim_k; ++dim) {
      sum[dim] /= static_cast<float>(params.length);
    }
    if (unrotated) {
      const int64_t fine = first_token % kPageSize * half;
      RotateRow(params.rope.fine_cos + fine, params.rope.fine_sin + fine, half, 1, sum);
      Turn(last_page - first_page, -1);
    }
    if (params.kv.cmp_absolute) Turn(last_page, 1);
  }

  void PoolValues() {
    const int head_dim = params.kv.head_dim_v;
    std::fill_n(sum, head_dim, 0.0f);
    for (int64_t token = first_token; token < end_token(); ++token) {
      const int64_t page = token / kPageSize;
      const int offset = static_cast<int>(token % kPageSize);
      const T* value = Slot(page, params.kv.v_offset) + int64_t{offset} * head_dim;
      for (int dim = 0; dim < head_dim; ++dim) {
        sum[dim] += Value(page, value[dim], kPageSize + offset);
      }
    }
    for (int dim = 0; dim < head_dim; ++dim) sum[dim] /= static_cast<float>(params.length);
  }

  void Run() {
    const PagedKv& kv = params.kv;
    const int rows_per_page = kPageSize / params.stride;
    const CmpSlot slot = FindCmpSlot(first_token / params.stride, params.length, params.stride);
    std::byte* target = kv.cmp_slots + segment.page_table[slot.page_index] * kv.cmp_page_stride +
                        kv_head * kv.cmp_head_stride;
    PoolKeys();
    for (int dim = 0; dim < kv.head_dim_k; ++dim) {
      StoreElement(kv.cmp_dtype, sum[dim], target, int64_t{dim} * rows_per_page + slot.slot);
    }
    if (kv.cmp_v_offset < 0) return;
    PoolValues();
    for (int dim = 0; dim < kv.head_dim_v; ++dim) {
      StoreElement(kv.cmp_dtype, sum[dim], target + kv.cmp_v_offset,
                   int64_t{slot.slot} * kv.head_dim_v + dim);
    }
  }
};

void PoolWindow(const CmpPoolParams& params, const AttentionSegment& segment, int kv_head,
                int64_t window, Scratch& scratch) {
  const int width = std::max(params.kv.head_dim_k, params.kv.head_dim_v);
  float* sum = scratch.Get<float>(2 * static_cast<size_t>(width));
  const int64_t first_token = window * params.stride;
  float* key = sum + width;
  WithElementType(params.kv.dtype, [&]<typename T>(T) {
    WindowPool<T>{params, segment, kv_head, first_token, sum, key}.Run();
  });
}

}  // namespace

void CmpPool(Context& context, const CmpPoolParams& params) {
  NSA_CHECK(params.stride > 0 && kPageSize % params.stride == 0);
  NSA_CHECK(params.length >= params.stride && params.length % params.stride == 0);
  struct Window {
    const AttentionSegment* segment;
    int64_t index;
  };
  const ListScope scope(context);
  List<Window> windows(scope.memory());
  for (int s = 0; s < params.num_segments; ++s) {
    const AttentionSegment& segment = params.segments[s];
    const WindowRange closed = ClosedWindows(segment, params.length, params.stride);
    for (int64_t window = closed.first; window < closed.end; ++window) {
      windows.push_back({&segment, window});
    }
  }
  const int num_kv_heads = params.kv.num_kv_heads;
  context.pool.ParallelFor(
      static_cast<int64_t>(windows.size()) * num_kv_heads, [&](int64_t index, int worker) {
        const Window& window = windows[index / num_kv_heads];
        PoolWindow(params, *window.segment, static_cast<int>(index % num_kv_heads), window.index,
                   context.worker[worker]);
      });
}

}  // namespace nsa::kernels::cpu
