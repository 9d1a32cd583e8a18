#include <cstdint>

#include "kernels/cuda/cuda.h"
#include "kernels/cuda/launch.h"

namespace nsa::kernels::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kColumnsPerCta = 4 * kThreads;

template <GateActivation kActivation>
NSA_DEVICE float Activate(float gate) {
  if constexpr (kActivation == GateActivation::kSilu) return gate / (1.0f + Exp(-gate));
  constexpr float kSqrt2OverPi = 0.79788456f;
  const float inner = kSqrt2OverPi * (gate + 0.044715f * gate * gate * gate);
  return 0.5f * gate * (1.0f + Tanh(inner));
}

/// CTA (r, c): columns [c·1024, …) of row r.
template <GateActivation kActivation, bool kHasUp>
NSA_KERNEL(kThreads)
GluKernel(NSA_ARGS GluParams p) {
  const float* gate = p.gate + CtaX() * p.gate_stride;
  float* y = p.y + CtaX() * p.y_stride;
  const int64_t begin = CtaY() * kColumnsPerCta + ThreadIndex();
  NSA_UNROLL
  for (int i = 0; i < kColumnsPerCta / kThreads; ++i) {
    const int64_t column = begin + i * kThreads;
    if (column >= p.num_columns) break;
    const float activated = Activate<kActivation>(gate[column]);
    y[column] = kHasUp ? activated * p.up[CtaX() * p.up_stride + column] : activated;
  }
}

template <GateActivation kActivation>
void LaunchGlu(Stream& stream, const GluParams& params) {
  const LaunchShape shape = {.name = "glu",
                             .grid_x = params.num_rows,
                             .grid_y = CeilDiv(params.num_columns, kColumnsPerCta),
                             .num_threads = kThreads};
  if (params.up == nullptr) return Launch(stream, shape, GluKernel<kActivation, false>, params);
  Launch(stream, shape, GluKernel<kActivation, true>, params);
}

}  // namespace

void Glu(Stream& stream, const GluParams& params) {
  if (params.activation == GateActivation::kSilu) {
    return LaunchGlu<GateActivation::kSilu>(stream, params);
  }
  LaunchGlu<GateActivation::kGeluTanh>(stream, params);
}

}  // namespace nsa::kernels::cuda
