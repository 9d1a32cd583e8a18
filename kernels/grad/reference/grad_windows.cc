#include "kernels/grad/grad_windows.h"

#include <algorithm>
#include <cstdint>

namespace nsa::kernels::grad::reference {
namespace {

/// Calls body(window of all, first token of all) for each window.
template <typename Body>
void ForEachWindow(const WindowsShape& shape, Body&& body) {
  int64_t window = 0;
  for (int64_t s = 0; s < shape.sequences.num_sequences; ++s) {
    const int64_t count = NumWindows(shape.sequences.Length(s), shape.length, shape.stride);
    for (int64_t i = 0; i < count; ++i) {
      body(window++, shape.sequences.Begin(s) + i * shape.stride);
    }
  }
}

}  // namespace

template <typename T>
void GatherWindows(const GatherWindowsInput<T>& input, T* gathered) {
  const WindowsShape& shape = input.shape;
  const int heads = shape.num_heads, dims = shape.head_dim;
  ForEachWindow(shape, [&](int64_t window, int64_t token) {
    for (int h = 0; h < heads; ++h) {
      for (int place = 0; place < shape.length; ++place) {
        const T* x = input.x + ((token + place) * heads + h) * dims;
        T* to = gathered + ((window * heads + h) * shape.length + place) * dims;
        for (int i = 0; i < dims; ++i) to[i] = x[i] + input.position[place * dims + i];
      }
    }
  });
}

template <typename T>
void GatherWindowsBackward(const GatherWindowsGradients<T>& gradients) {
  const WindowsShape& shape = gradients.shape;
  const int heads = shape.num_heads, dims = shape.head_dim;
  std::fill_n(gradients.grad_x, shape.sequences.num_tokens() * heads * dims, T{0});
  std::fill_n(gradients.grad_position, int64_t{shape.length} * dims, T{0});
  ForEachWindow(shape, [&](int64_t window, int64_t token) {
    for (int h = 0; h < heads; ++h) {
      for (int place = 0; place < shape.length; ++place) {
        const T* from =
            gradients.grad_gathered + ((window * heads + h) * shape.length + place) * dims;
        T* grad_x = gradients.grad_x + ((token + place) * heads + h) * dims;
        for (int i = 0; i < dims; ++i) {
          grad_x[i] += from[i];
          gradients.grad_position[place * dims + i] += from[i];
        }
      }
    }
  });
}

template <typename T>
void MeanWindows(const WindowsShape& shape, const T* x, T* mean) {
  const int64_t row = int64_t{shape.num_heads} * shape.head_dim;
  ForEachWindow(shape, [&](int64_t window, int64_t token) {
    for (int64_t i = 0; i < row; ++i) {
      T sum = 0;
      for (int place = 0; place < shape.length; ++place) sum += x[(token + place) * row + i];
      mean[window * row + i] = sum / static_cast<T>(shape.length);
    }
  });
}

template <typename T>
void MeanWindowsBackward(const WindowsShape& shape, const T* grad_mean, T* grad_x) {
  const int64_t row = int64_t{shape.num_heads} * shape.head_dim;
  std::fill_n(grad_x, shape.sequences.num_tokens() * row, T{0});
  ForEachWindow(shape, [&](int64_t window, int64_t token) {
    for (int place = 0; place < shape.length; ++place) {
      for (int64_t i = 0; i < row; ++i) {
        grad_x[(token + place) * row + i] +=
            grad_mean[window * row + i] / static_cast<T>(shape.length);
      }
    }
  });
}

#define NSA_INSTANTIATE(T)                                               \
  template void GatherWindows(const GatherWindowsInput<T>&, T*);         \
  template void GatherWindowsBackward(const GatherWindowsGradients<T>&); \
  template void MeanWindows(const WindowsShape&, const T*, T*);          \
  template void MeanWindowsBackward(const WindowsShape&, const T*, T*);
NSA_INSTANTIATE(float)
NSA_INSTANTIATE(double)
#undef NSA_INSTANTIATE

}  // namespace nsa::kernels::grad::reference
