#include <cstddef>
#include <cstdint>

#include "kernels/check.h"
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/elements.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/quant_elements.h"

namespace nsa::kernels::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kColumnsPerCta = 4 * kThreads;

struct Args {
  EmbedParams params;
  int64_t row_bytes;
};

template <WeightType kType>
NSA_DEVICE float TableElement(const uint8_t* row, int64_t column) {
  if constexpr (kType == WeightType::kF32) {
    return reinterpret_cast<const float*>(row)[column];
  } else if constexpr (kType == WeightType::kF16) {
    return ToFloat(reinterpret_cast<const F16*>(row)[column]);
  } else if constexpr (kType == WeightType::kBF16) {
    return ToFloat(reinterpret_cast<const Bf16*>(row)[column]);
  } else {
    return QuantElement<kType>(row, column);
  }
}

/// CTA (r, c): columns [c·1024, …) of row r. Neighbouring threads read neighbouring elements.
template <WeightType kType>
NSA_KERNEL(kThreads)
EmbedKernel(NSA_ARGS Args args) {
  const EmbedParams& p = args.params;
  const int64_t columns = p.table.num_columns;
  const bool is_sampled = p.places != nullptr && p.places[CtaX()] >= 0;
  const int64_t id = is_sampled ? p.sampled[p.places[CtaX()]] : p.ids[CtaX()];
  const bool is_token = !is_sampled || id >= 0;
  DeviceCheck(!is_token || (id >= 0 && id < p.table.num_rows));
  const uint8_t* row = static_cast<const uint8_t*>(p.table.data) + id * args.row_bytes;
  float* y = p.y + CtaX() * columns;
  const int64_t begin = CtaY() * kColumnsPerCta + ThreadIndex();
  NSA_UNROLL
  for (int i = 0; i < kColumnsPerCta / kThreads; ++i) {
    const int64_t column = begin + i * kThreads;
    if (column >= columns) continue;
    y[column] = is_token ? TableElement<kType>(row, column) * p.scale : 0.0f;
  }
}

using Kernel = void (*)(Args);

Kernel KernelOf(WeightType type) {
  switch (type) {
    case WeightType::kF32:
      return EmbedKernel<WeightType::kF32>;
    case WeightType::kF16:
      return EmbedKernel<WeightType::kF16>;
    case WeightType::kBF16:
      return EmbedKernel<WeightType::kBF16>;
    case WeightType::kQ4_0:
      return EmbedKernel<WeightType::kQ4_0>;
    case WeightType::kQ4_1:
      return EmbedKernel<WeightType::kQ4_1>;
    case WeightType::kQ5_0:
      return EmbedKernel<WeightType::kQ5_0>;
    case WeightType::kQ5_1:
      return EmbedKernel<WeightType::kQ5_1>;
    case WeightType::kQ8_0:
      return EmbedKernel<WeightType::kQ8_0>;
    case WeightType::kQ4_K:
      return EmbedKernel<WeightType::kQ4_K>;
    case WeightType::kQ5_K:
      return EmbedKernel<WeightType::kQ5_K>;
    case WeightType::kQ6_K:
      return EmbedKernel<WeightType::kQ6_K>;
  }
  NSA_CHECK(false && "not a type of weights");
}

}  // namespace

void Embed(Stream& stream, const EmbedParams& params) {
  const WeightMatrix& table = params.table;
  Launch(stream,
         {.name = "embed",
          .grid_x = params.num_rows,
          .grid_y = CeilDiv(table.num_columns, kColumnsPerCta),
          .num_threads = kThreads},
         KernelOf(table.type), Args{params, RowBytes(table.type, table.num_columns)});
}

}  // namespace nsa::kernels::cuda
