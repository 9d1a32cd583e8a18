#ifndef NSA_KERNELS_TENSOR_H_
#define NSA_KERNELS_TENSOR_H_

#include <cstddef>
#include <cstdint>

namespace nsa::kernels {

/// Element types of dense tensors (caches, activations, unquantised weights). kInt8 stands beside a
/// scale for each row: x = q·scale, q in −127 … 127. kF8E4M3 (float8.h) is for K and V alone.
enum class DType : uint8_t { kF32, kF16, kBF16, kInt8, kF8E4M3 };

constexpr size_t SizeOf(DType dtype) {
  if (dtype == DType::kF32) return 4;
  return dtype == DType::kInt8 || dtype == DType::kF8E4M3 ? 1 : 2;
}

/// Number of tokens in one page of the KV cache (design.md §5).
inline constexpr int kPageSize = 64;

}  // namespace nsa::kernels

#endif  // NSA_KERNELS_TENSOR_H_
