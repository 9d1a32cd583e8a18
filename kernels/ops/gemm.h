#ifndef NSA_KERNELS_OPS_GEMM_H_
#define NSA_KERNELS_OPS_GEMM_H_

#include <cstdint>

#include "kernels/quant.h"

namespace nsa::kernels {

/// A weight matrix as its file holds it: row-major, `num_rows` × `num_columns`, rows RowBytes()
/// apart.
struct WeightMatrix {
  const void* data = nullptr;  // [num_rows, RowBytes(type, num_columns)]
  WeightType type = WeightType::kF32;
  int64_t num_rows = 0;     // output features
  int64_t num_columns = 0;  // input features
};

/// A weight matrix in a backend's own layout, made once by Backend::Pack and then read-only.
/// Quantised formats stay quantised: every one of them is `scale·q + minimum` with q of 4 or 8
/// bits, and a scale and minimum per 16 or 32 columns.
class PackedMatrix {
 public:
  virtual ~PackedMatrix() = default;
  virtual int64_t num_rows() const = 0;
  virtual int64_t num_columns() const = 0;
  virtual int64_t num_bytes() const = 0;
};

/// y = scale·(x·Wᵀ (+ bias)) (+ y where `accumulate`).
///
/// Quantised W: each row of x is first quantised to 16-bit integers q with one scale per 32 columns
/// (amax/32639, rounded to nearest even). Over groups of 32 columns (16 for Q6_K) in rising order,
///   y ← fma(float(Σ q_w·q), scale_w·scale, y), then y ← fma(minimum_w, scale·float(Σ q), y)
/// for the formats that have a minimum; sums of integers are exact. Every backend and instruction
/// set with fused multiply-add gives the same bits. (8-bit activations miss the bar of 0.9999 mean
/// logit cosine on SmolLM2; 16-bit ones reach 0.999996.) A value of x that is not finite makes its
/// whole row of y NaN.
/// Dense W (f32, f16, bf16): y ← fma(w, x, y) in the order of columns, x unrounded.
/// Then bias is added, the sum scaled, and what y held added.
/// Row-invariant: a row of y depends on that row of x and on W alone.
struct GemmParams {
  const float* x = nullptr;  // [num_rows, w->num_columns()], rows x_stride floats apart
  int64_t x_stride = 0;
  float* y = nullptr;  // [num_rows, w->num_rows()], rows y_stride floats apart
  int64_t y_stride = 0;
  int64_t num_rows = 0;
  const PackedMatrix* w = nullptr;
  const float* bias = nullptr;  // [w->num_rows()] or null
  bool accumulate = false;
  float scale = 1;
};

}  // namespace nsa::kernels

#endif  // NSA_KERNELS_OPS_GEMM_H_
