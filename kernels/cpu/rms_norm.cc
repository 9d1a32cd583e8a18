#include <algorithm>
#include <cmath>
#include <cstdint>

#include "kernels/cpu/cpu.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/rms_norm.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace nsa::kernels::cpu {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

/// Σ x², in an order that the number of columns alone decides.
float SumOfSquares(const float* x, int64_t num_columns) {
  const hn::CappedTag<float, 16> d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  auto sum_0 = hn::Zero(d), sum_1 = hn::Zero(d), sum_2 = hn::Zero(d), sum_3 = hn::Zero(d);
  int64_t i = 0;
  for (; i + 4 * lanes <= num_columns; i += 4 * lanes) {
    const auto x0 = hn::LoadU(d, x + i), x1 = hn::LoadU(d, x + i + lanes);
    const auto x2 = hn::LoadU(d, x + i + 2 * lanes), x3 = hn::LoadU(d, x + i + 3 * lanes);
    sum_0 = hn::MulAdd(x0, x0, sum_0);
    sum_1 = hn::MulAdd(x1, x1, sum_1);
    sum_2 = hn::MulAdd(x2, x2, sum_2);
    sum_3 = hn::MulAdd(x3, x3, sum_3);
  }
  const auto sums = hn::Add(hn::Add(sum_0, sum_1), hn::Add(sum_2, sum_3));
  float sum = hn::GetLane(hn::SumOfLanes(d, sums));
  for (; i < num_columns; ++i) sum += x[i] * x[i];
  return sum;
}

template <bool kAccumulate>
void RmsNormRow(const float* x, const float* weight, float epsilon, int64_t num_columns, float* y) {
  const hn::CappedTag<float, 16> d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const float mean = SumOfSquares(x, num_columns) / static_cast<float>(num_columns);
  const float inverse = 1.0f / std::sqrt(mean + epsilon);
  int64_t i = 0;
  for (; i + lanes <= num_columns; i += lanes) {
    auto normed = hn::Mul(hn::LoadU(d, x + i), hn::Set(d, inverse));
    normed = hn::Mul(normed, hn::LoadU(d, weight + i));
    if constexpr (kAccumulate) normed = hn::Add(hn::LoadU(d, y + i), normed);
    hn::StoreU(normed, d, y + i);
  }
  for (; i < num_columns; ++i) {
    const float normed = x[i] * inverse * weight[i];
    y[i] = kAccumulate ? y[i] + normed : normed;
  }
}

void RmsNormForTarget(Context& context, const RmsNormParams& params) {
  constexpr int64_t kRowsPerTask = 32;  // some microseconds, so that handing it out pays
  const int64_t num_tasks = (params.num_rows + kRowsPerTask - 1) / kRowsPerTask;
  context.pool.ParallelFor(num_tasks, [&](int64_t task, int) {
    const int64_t end = std::min((task + 1) * kRowsPerTask, params.num_rows);
    for (int64_t r = task * kRowsPerTask; r < end; ++r) {
      for (int64_t g = 0; g < params.num_groups; ++g) {
        const int64_t first = g * params.num_columns;
        const auto normalise = params.accumulate ? RmsNormRow<true> : RmsNormRow<false>;
        normalise(params.x + r * params.x_stride + first, params.weight, params.epsilon,
                  params.num_columns, params.y + r * params.y_stride + first);
      }
    }
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace nsa::kernels::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace nsa::kernels::cpu {

HWY_EXPORT(RmsNormForTarget);

void RmsNorm(Context& context, const RmsNormParams& params) {
  HWY_DYNAMIC_DISPATCH(RmsNormForTarget)(context, params);
}

}  // namespace nsa::kernels::cpu
#endif
