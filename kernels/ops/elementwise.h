#ifndef NSA_KERNELS_OPS_ELEMENTWISE_H_
#define NSA_KERNELS_OPS_ELEMENTWISE_H_

#include <cstdint>

#include "kernels/ops/gemm.h"

namespace nsa::kernels {

/// y[r] = scale · table[id] dequantised, where id is ids[r]; or, for rows that have a place (≥ 0),
/// what Sample has left there in `sampled`, and no token (< 0) gives zeros.
struct EmbedParams {
  WeightMatrix table;            // [vocabulary, hidden]
  const int32_t* ids = nullptr;  // [num_rows], each in [0, table.num_rows)
  float* y = nullptr;            // [num_rows, table.num_columns]
  int64_t num_rows = 0;
  float scale = 1;
  const int32_t* places = nullptr;   // [num_rows], indices into `sampled` or −1; or null for none
  const int32_t* sampled = nullptr;  // in the backend's memory
};

/// y = x / sqrt(mean(x²) + epsilon) · weight (+ y where `accumulate`), for each of a row's groups
/// by itself: heads have norms of their own. y may be x.
struct RmsNormParams {
  const float* x = nullptr;  // [num_rows, num_groups, num_columns], rows x_stride floats apart
  int64_t x_stride = 0;
  const float* weight = nullptr;  // [num_columns]
  float epsilon = 0;
  float* y = nullptr;  // [num_rows, num_groups, num_columns], rows y_stride floats apart
  int64_t y_stride = 0;
  int64_t num_rows = 0;
  int64_t num_columns = 0;
  int64_t num_groups = 1;
  bool accumulate = false;  // y is not x then
};

/// What a gate's value goes through.
enum class GateActivation : uint8_t {
  kSilu,      // g / (1 + exp(−g))
  kGeluTanh,  // g/2 · (1 + tanh(√(2/π)·(g + 0.044715·g³))), Hendrycks and Gimpel's approximation
};

/// Gated linear unit (Shazeer 2020, arXiv 2002.05202): y = activation(gate) · up; without `up` the
/// activation alone. y may be gate or up.
struct GluParams {
  const float* gate = nullptr;  // [num_rows, num_columns], rows gate_stride floats apart
  int64_t gate_stride = 0;
  const float* up = nullptr;  // [num_rows, num_columns], rows up_stride floats apart; or null
  int64_t up_stride = 0;
  float* y = nullptr;  // [num_rows, num_columns], rows y_stride floats apart
  int64_t y_stride = 0;
  int64_t num_rows = 0;
  int64_t num_columns = 0;
  GateActivation activation = GateActivation::kSilu;
};

}  // namespace nsa::kernels

#endif  // NSA_KERNELS_OPS_ELEMENTWISE_H_
