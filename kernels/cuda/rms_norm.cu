#include <cstdint>

#include "kernels/cuda/cuda.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/reduce.h"

namespace nsa::kernels::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarpSize;
// Norms of single heads are this short: a warp does each, and no barrier is needed.
constexpr int64_t kMaxWarpColumns = 256;

/// The sum of x² over [0, count), by `threads` threads of which this is the `thread`-th: a chain
/// for each, then what WarpSum does.
NSA_DEVICE float WarpSumOfSquares(const float* x, int64_t count, int thread, int threads) {
  float sum = 0;
  for (int64_t c = thread; c < count; c += threads) sum = Fma(x[c], x[c], sum);
  return WarpSum(sum);
}

/// Group `item` of all rows' groups, normalised by `threads` threads with its sum of squares.
NSA_DEVICE void Normalise(const RmsNormParams& p, const float* x, float* y, float sum, int thread,
                          int threads) {
  const float mean = sum / static_cast<float>(p.num_columns);
  const float inverse = 1.0f / Sqrt(mean + p.epsilon);
  for (int64_t c = thread; c < p.num_columns; c += threads) {
    const float normed = x[c] * inverse * p.weight[c];
    y[c] = p.accumulate ? y[c] + normed : normed;
  }
}

NSA_DEVICE const float* SourceOf(const RmsNormParams& p, int64_t item) {
  const Split by_group = SplitIndex(item, p.num_groups);
  return p.x + by_group.quotient * p.x_stride + by_group.remainder * p.num_columns;
}
NSA_DEVICE float* TargetOf(const RmsNormParams& p, int64_t item) {
  const Split by_group = SplitIndex(item, p.num_groups);
  return p.y + by_group.quotient * p.y_stride + by_group.remainder * p.num_columns;
}

/// A warp a group.
NSA_KERNEL(kThreads) RmsNormByWarps(NSA_ARGS RmsNormParams p) {
  const int64_t item = CtaX() * kWarps + WarpIndex();
  if (item >= p.num_rows * p.num_groups) return;
  const float* x = SourceOf(p, item);
  const float sum = WarpSumOfSquares(x, p.num_columns, LaneIndex(), kWarpSize);
  Normalise(p, x, TargetOf(p, item), sum, LaneIndex(), kWarpSize);
}

/// A CTA a group.
NSA_KERNEL(kThreads) RmsNormByCtas(NSA_ARGS RmsNormParams p) {
  NSA_SHARED(float, partial, kWarps);
  const float* x = SourceOf(p, CtaX());
  const float mine = WarpSumOfSquares(x, p.num_columns, ThreadIndex(), kThreads);
  if (LaneIndex() == 0) partial[WarpIndex()] = mine;
  SyncThreads();
  float sum = 0;
  for (int w = 0; w < kWarps; ++w) sum += partial[w];
  Normalise(p, x, TargetOf(p, CtaX()), sum, ThreadIndex(), kThreads);
}

}  // namespace

// The kernel, and with it the order of the sum, depends on the number of columns alone.
void RmsNorm(Stream& stream, const RmsNormParams& params) {
  const int64_t items = params.num_rows * params.num_groups;
  NSA_CHECK(items <= INT32_MAX);
  LaunchShape shape = {.name = "rms_norm", .grid_x = items, .num_threads = kThreads};
  if (params.num_columns > kMaxWarpColumns) return Launch(stream, shape, RmsNormByCtas, params);
  shape.grid_x = CeilDiv(items, kWarps);
  Launch(stream, shape, RmsNormByWarps, params);
}

}  // namespace nsa::kernels::cuda
