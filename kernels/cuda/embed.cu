#include <cstddef>
#include <cstdint>

#include "kernels/cuda/cuda.h"
#include "kernels/cuda/elements.h"
#include "kernels/cuda/launch.h"

namespace nsa::kernels::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kColumnsPerCta = 4 * kThreads;

/// CTA (r, c): columns [c·1024, …) of row r. Neighbouring threads read neighbouring elements.
template <typename T>
NSA_KERNEL(kThreads)
EmbedKernel(NSA_ARGS EmbedParams p) {
  const int64_t columns = p.table.num_columns;
  const int64_t id = p.ids[CtaX()];
  DeviceCheck(id >= 0 && id < p.table.num_rows);
  const T* source = static_cast<const T*>(p.table.data) + id * columns;
  float* y = p.y + CtaX() * columns;
  const int64_t begin = CtaY() * kColumnsPerCta + ThreadIndex();
  NSA_UNROLL
  for (int i = 0; i < kColumnsPerCta / kThreads; ++i) {
    const int64_t column = begin + i * kThreads;
    if (column < columns) y[column] = ToFloat(source[column]) * p.scale;
  }
}

}  // namespace

void Embed(Stream& stream, const EmbedParams& params) {
  const LaunchShape shape = {.name = "embed",
                             .grid_x = params.num_rows,
                             .grid_y = CeilDiv(params.table.num_columns, kColumnsPerCta),
                             .num_threads = kThreads};
  const WeightType type = params.table.type;
  NSA_CHECK(type == WeightType::kF32 || type == WeightType::kF16 || type == WeightType::kBF16);
  if (type == WeightType::kF32) return Launch(stream, shape, EmbedKernel<float>, params);
  if (type == WeightType::kF16) return Launch(stream, shape, EmbedKernel<F16>, params);
  Launch(stream, shape, EmbedKernel<Bf16>, params);
}

}  // namespace nsa::kernels::cuda
