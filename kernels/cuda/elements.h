#ifndef NSA_KERNELS_CUDA_ELEMENTS_H_
#define NSA_KERNELS_CUDA_ELEMENTS_H_

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "kernels/cuda/device.h"
#include "kernels/float8.h"
#include "kernels/tensor.h"

/// Elements of caches and tables as float32, and back.
namespace nsa::kernels::cuda {

/// An element of kInt8, without its scale.
NSA_DEVICE float ToFloat(int8_t x) { return static_cast<float>(x); }

NSA_DEVICE float ToFloat(F8E4M3 x) { return F8E4M3ToF32(x); }

template <typename T>
NSA_DEVICE T FromFloat(float x) {
  if constexpr (std::is_same_v<T, Bf16>) {
    return ToBf16(x);
  } else if constexpr (std::is_same_v<T, F16>) {
    return ToF16(x);
  } else if constexpr (std::is_same_v<T, F8E4M3>) {
    return F32ToF8E4M3(x);
  } else {
    return x;
  }
}

template <typename T>
NSA_DEVICE const T* ElementsAt(const std::byte* base, int64_t offset) {
  return reinterpret_cast<const T*>(base + offset);
}
template <typename T>
NSA_DEVICE T* ElementsAt(std::byte* base, int64_t offset) {
  return reinterpret_cast<T*>(base + offset);
}

/// One element of a compressed row, of any type but kInt8, where too few are stored for a kernel of
/// their own.
NSA_DEVICE void StoreElement(DType dtype, std::byte* base, int64_t index, float x) {
  if (dtype == DType::kF32) {
    ElementsAt<float>(base, 0)[index] = x;
  } else if (dtype == DType::kF16) {
    ElementsAt<F16>(base, 0)[index] = ToF16(x);
  } else {
    ElementsAt<Bf16>(base, 0)[index] = ToBf16(x);
  }
}

/// Calls body(T{}) on the host with the element type of `dtype`.
template <typename Body>
void WithElementType(DType dtype, Body&& body) {
  switch (dtype) {
    case DType::kF32:
      return body(float{});
    case DType::kF16:
      return body(F16{});
    case DType::kBF16:
      return body(Bf16{});
    case DType::kInt8:
      return body(int8_t{});
    case DType::kF8E4M3:
      return body(F8E4M3{});
  }
}

}  // namespace nsa::kernels::cuda

#endif  // NSA_KERNELS_CUDA_ELEMENTS_H_
