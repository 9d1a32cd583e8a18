#ifndef NSA_KERNELS_CUDA_PAGED_H_
#define NSA_KERNELS_CUDA_PAGED_H_

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "kernels/cuda/device.h"
#include "kernels/cuda/elements.h"
#include "kernels/ops/attention.h"

/// Reading the paged cache (ops/attention.h).
namespace nsa::kernels::cuda {

/// Where the slot of a page stands among all slots: `places` as in PagedKv.
NSA_DEVICE int64_t PlaceOf(const int32_t* places, int64_t places_stride, int64_t page) {
  if (places == nullptr) return page;
  const int32_t place = places[page * places_stride];
  DeviceCheck(place >= 0);  // in memory
  return place;
}
/// A KV head's part of a page of the pool.
NSA_DEVICE std::byte* HeadSlot(const PagedKv& kv, int64_t page, int64_t kv_head) {
  return kv.slots + PlaceOf(kv.places, kv.places_stride, page) * kv.page_stride +
         kv_head * kv.head_stride;
}

/// The scale of a token's K, and that of its V; 1 where T needs none.
template <typename T>
NSA_DEVICE float KeyScale(const PagedKv& kv, const std::byte* slot, int64_t offset) {
  if constexpr (!std::is_same_v<T, int8_t>) return 1;
  return ElementsAt<float>(slot, kv.scale_offset)[offset];
}
template <typename T>
NSA_DEVICE float ValueScale(const PagedKv& kv, const std::byte* slot, int64_t offset) {
  if constexpr (!std::is_same_v<T, int8_t>) return 1;
  return ElementsAt<float>(slot, kv.scale_offset)[kPageSize + offset];
}

/// Element `dim` of the key, or of the value, of token `offset` of a page.
template <typename T>
NSA_DEVICE float LoadKey(const PagedKv& kv, const std::byte* slot, int dim, int64_t offset) {
  return ToFloat(ElementsAt<T>(slot, 0)[dim * kPageSize + offset]) * KeyScale<T>(kv, slot, offset);
}
template <typename T>
NSA_DEVICE float LoadValue(const PagedKv& kv, const std::byte* slot, int dim, int64_t offset) {
  return ToFloat(ElementsAt<T>(slot, kv.v_offset)[offset * kv.head_dim_v + dim]) *
         ValueScale<T>(kv, slot, offset);
}

}  // namespace nsa::kernels::cuda

#endif  // NSA_KERNELS_CUDA_PAGED_H_
