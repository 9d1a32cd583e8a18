#include "engine/attention/window_perceptron.h"

#include <algorithm>

namespace nsa::engine {
namespace {

/// Rows at a time. Bounds memory; results do not depend on it, products being row-invariant.
constexpr int64_t kRows = 128;

void Grow(kernels::Backend& backend, int64_t size, kernels::Array<float>& array) {
  if (array.size() < size) array = kernels::Array<float>(backend, size);
}

}  // namespace

int64_t WindowCompressor::NumBytes(int64_t window_floats, int64_t hidden_size) {
  return kRows * (2 * window_floats + hidden_size) * static_cast<int64_t>(sizeof(float));
}

void WindowCompressor::Apply(kernels::Backend& backend, const WindowPerceptron& phi,
                             int64_t num_rows) {
  const int64_t columns = phi.up->num_columns(), hidden = phi.up->num_rows();
  backend.Gemm({.x = windows_.data(),
                .x_stride = columns,
                .y = hidden_.data(),
                .y_stride = hidden,
                .num_rows = num_rows,
                .w = phi.up.get(),
                .bias = phi.up_bias.data()});
  backend.Glu({.gate = hidden_.data(),
               .gate_stride = hidden,
               .y = hidden_.data(),
               .y_stride = hidden,
               .num_rows = num_rows,
               .num_columns = hidden,
               .activation = phi.activation});
  backend.Gemm({.x = hidden_.data(),
                .x_stride = hidden,
                .y = rows_.data(),
                .y_stride = phi.down->num_rows(),
                .num_rows = num_rows,
                .w = phi.down.get(),
                .bias = phi.down_bias.data()});
}

void WindowCompressor::Run(kernels::Backend& backend, const ClosingWindows& windows,
                           const WindowPerceptron& keys, const WindowPerceptron& values) {
  const int64_t total =
      windows.kv.num_kv_heads * kernels::NumClosedWindows(windows.segments, windows.num_segments,
                                                          windows.length, windows.stride);
  if (total == 0) return;
  for (const WindowPerceptron* phi : {&keys, &values}) {
    Grow(backend, kRows * phi->up->num_columns(), windows_);
    Grow(backend, kRows * phi->up->num_rows(), hidden_);
    Grow(backend, kRows * phi->down->num_rows(), rows_);
    for (int64_t first = 0; first < total; first += kRows) {
      kernels::CompressedRows rows{.segments = windows.segments,
                                   .num_segments = windows.num_segments,
                                   .kv = windows.kv,
                                   .length = windows.length,
                                   .stride = windows.stride,
                                   .values = phi == &values,
                                   .first_row = first,
                                   .num_rows = std::min(kRows, total - first)};
      backend.CmpGather({.rows = rows, .position = phi->position.data(), .y = windows_.data()});
      Apply(backend, *phi, rows.num_rows);
      backend.CmpScatter({.rows = rows, .rope = windows.rope, .x = rows_.data()});
    }
  }
}

}  // namespace nsa::engine
