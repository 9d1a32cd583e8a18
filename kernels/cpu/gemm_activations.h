#ifndef NSA_KERNELS_CPU_GEMM_ACTIVATIONS_H_
#define NSA_KERNELS_CPU_GEMM_ACTIVATIONS_H_

#include <cstdint>

namespace nsa::kernels::cpu {

/// The rows of x as the kernels of gemm_block-inl.h read them. Dense weights read `x`, quantised
/// ones the rest (kernels/activation.h says how it is made).
struct Activations {
  const float* x = nullptr;  // [num_rows, num_columns], rows x_stride floats apart
  int64_t x_stride = 0;
  int64_t num_columns = 0;
  int64_t num_groups = 0;             // num_columns / 32
  const int16_t* q = nullptr;         // [num_rows, num_columns]
  const float* scale = nullptr;       // [num_rows, num_groups]
  const int32_t* sum = nullptr;       // [num_rows, num_groups] Σ q
  const float* scaled_sum = nullptr;  // [num_rows, num_groups] scale · Σ q
};

}  // namespace nsa::kernels::cpu

#endif  // NSA_KERNELS_CPU_GEMM_ACTIVATIONS_H_
