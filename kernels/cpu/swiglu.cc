#include <algorithm>
#include <cstdint>
#include <cstring>

#include "kernels/cpu/cpu.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/swiglu.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "kernels/cpu/math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace nsa::kernels::cpu {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

/// gate / (1 + e^−gate) · up. With e = e^−|gate| nothing overflows: for negative gates the quotient
/// is gate · e / (1 + e).
template <class D, class V = hn::Vec<D>>
HWY_INLINE V Swiglu(D d, V gate, V up) {
  const V one = hn::Set(d, 1.0f);
  const V e = Exp(d, hn::Neg(hn::Abs(gate)));
  const V numerator = hn::IfThenElse(hn::Lt(gate, hn::Zero(d)), e, one);
  return hn::Mul(hn::Div(hn::Mul(gate, numerator), hn::Add(one, e)), up);
}

void SwigluRow(const float* gate, const float* up, int64_t num_columns, float* y) {
  const hn::CappedTag<float, 16> d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  int64_t i = 0;
  for (; i + lanes <= num_columns; i += lanes) {
    hn::StoreU(Swiglu(d, hn::LoadU(d, gate + i), hn::LoadU(d, up + i)), d, y + i);
  }
  if (i == num_columns) return;
  // The rest goes through whole vectors too, so that a column's bits do not depend on its place.
  HWY_ALIGN float rest[3][16] = {};
  const auto num_bytes = static_cast<size_t>(num_columns - i) * sizeof(float);
  std::memcpy(rest[0], gate + i, num_bytes);
  std::memcpy(rest[1], up + i, num_bytes);
  hn::Store(Swiglu(d, hn::Load(d, rest[0]), hn::Load(d, rest[1])), d, rest[2]);
  std::memcpy(y + i, rest[2], num_bytes);
}

void SwigluForTarget(Context& context, const SwigluParams& params) {
  constexpr int64_t kRowsPerTask = 8;  // some microseconds, so that handing it out pays
  const int64_t num_tasks = (params.num_rows + kRowsPerTask - 1) / kRowsPerTask;
  context.pool.ParallelFor(num_tasks, [&](int64_t task, int) {
    const int64_t end = std::min((task + 1) * kRowsPerTask, params.num_rows);
    for (int64_t r = task * kRowsPerTask; r < end; ++r) {
      SwigluRow(params.gate + r * params.gate_stride, params.up + r * params.up_stride,
                params.num_columns, params.y + r * params.y_stride);
    }
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace nsa::kernels::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace nsa::kernels::cpu {

HWY_EXPORT(SwigluForTarget);

void Swiglu(Context& context, const SwigluParams& params) {
  HWY_DYNAMIC_DISPATCH(SwigluForTarget)(context, params);
}

}  // namespace nsa::kernels::cpu
#endif
