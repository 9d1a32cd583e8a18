#ifndef NSA_KERNELS_GRAD_GRAD_WINDOWS_H_
#define NSA_KERNELS_GRAD_GRAD_WINDOWS_H_

#include <cstdint>

#include "kernels/grad/sequences.h"

/// The windows of NSA's compression for training (arXiv 2502.11089, Eq. 7). A learned φ is linear
/// layers over gathered windows, which any library multiplies; a φ that is the mean is here.
namespace nsa::kernels::grad {

/// W windows of all sequences, laid end to end as these; S tokens.
struct WindowsShape {
  PackedSequences sequences;
  int num_heads = 0;
  int head_dim = 0;
  int length = 32;  // l
  int stride = 16;  // d: divides length
};

/// gathered[w, h, place, :] = x[w·stride + place, h, :] + position[place, :].
template <typename T>
struct GatherWindowsInput {
  WindowsShape shape;
  const T* x = nullptr;         // [S, num_heads, head_dim]
  const T* position = nullptr;  // [length, head_dim]
};

template <typename T>
struct GatherWindowsGradients {
  WindowsShape shape;
  const T* grad_gathered = nullptr;  // [W, num_heads, length, head_dim]
  T* grad_x = nullptr;               // [S, num_heads, head_dim]; overwritten
  T* grad_position = nullptr;        // [length, head_dim]; overwritten
};

namespace reference {

/// T: float or double. gathered: [W, num_heads, length, head_dim].
template <typename T>
void GatherWindows(const GatherWindowsInput<T>& input, T* gathered);
template <typename T>
void GatherWindowsBackward(const GatherWindowsGradients<T>& gradients);

/// mean[w, h, :] = Σ_place x[w·stride + place, h, :] / length; mean: [W, num_heads, head_dim].
template <typename T>
void MeanWindows(const WindowsShape& shape, const T* x, T* mean);
/// grad_x is overwritten.
template <typename T>
void MeanWindowsBackward(const WindowsShape& shape, const T* grad_mean, T* grad_x);

}  // namespace reference
}  // namespace nsa::kernels::grad

namespace nsa::kernels::cpu {
struct Context;
}

namespace nsa::kernels::grad::cpu {

/// The same results whatever the number of threads.
void GatherWindows(kernels::cpu::Context& context, const GatherWindowsInput<float>& input,
                   float* gathered);
void GatherWindowsBackward(kernels::cpu::Context& context,
                           const GatherWindowsGradients<float>& gradients);
void MeanWindows(kernels::cpu::Context& context, const WindowsShape& shape, const float* x,
                 float* mean);
void MeanWindowsBackward(kernels::cpu::Context& context, const WindowsShape& shape,
                         const float* grad_mean, float* grad_x);

}  // namespace nsa::kernels::grad::cpu

#endif  // NSA_KERNELS_GRAD_GRAD_WINDOWS_H_
