#include <algorithm>
#include <cstdint>
#include <cstring>

#include "kernels/cpu/cpu.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/glu.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "kernels/cpu/math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace nsa::kernels::cpu {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

/// x / (1 + e^−gate). With e = e^−|gate| nothing overflows: for negative gates the quotient is
/// x · e / (1 + e).
template <class D, class V = hn::Vec<D>>
HWY_INLINE V TimesSigmoid(D d, V x, V gate) {
  const V one = hn::Set(d, 1.0f);
  const V e = Exp(d, hn::Neg(hn::Abs(gate)));
  const V numerator = hn::IfThenElse(hn::Lt(gate, hn::Zero(d)), e, one);
  return hn::Div(hn::Mul(x, numerator), hn::Add(one, e));
}

template <GateActivation kActivation, class D, class V = hn::Vec<D>>
HWY_INLINE V Glu(D d, V gate, V up) {
  if constexpr (kActivation == GateActivation::kSilu) {
    return hn::Mul(TimesSigmoid(d, gate, gate), up);
  } else {
    // (1 + tanh(z))/2 is the sigmoid of 2z; 2·√(2/π) = 1.5957691.
    const V cube = hn::Mul(hn::Mul(gate, gate), gate);
    const V inner = hn::MulAdd(cube, hn::Set(d, 0.044715f), gate);
    return hn::Mul(TimesSigmoid(d, gate, hn::Mul(inner, hn::Set(d, 1.5957691f))), up);
  }
}

template <GateActivation kActivation>
void GluRow(const float* gate, const float* up, int64_t num_columns, float* y) {
  const hn::CappedTag<float, 16> d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  int64_t i = 0;
  const auto one = hn::Set(d, 1.0f);
  for (; i + lanes <= num_columns; i += lanes) {
    const auto factor = up == nullptr ? one : hn::LoadU(d, up + i);
    hn::StoreU(Glu<kActivation>(d, hn::LoadU(d, gate + i), factor), d, y + i);
  }
  if (i == num_columns) return;
  // The rest goes through whole vectors too, so that a column's bits do not depend on its place.
  HWY_ALIGN float rest[3][16] = {};
  const auto num_bytes = static_cast<size_t>(num_columns - i) * sizeof(float);
  std::memcpy(rest[0], gate + i, num_bytes);
  if (up == nullptr) {
    hn::Store(one, d, rest[1]);
  } else {
    std::memcpy(rest[1], up + i, num_bytes);
  }
  hn::Store(Glu<kActivation>(d, hn::Load(d, rest[0]), hn::Load(d, rest[1])), d, rest[2]);
  std::memcpy(y + i, rest[2], num_bytes);
}

void GluForTarget(Context& context, const GluParams& params) {
  const auto row = params.activation == GateActivation::kSilu ? GluRow<GateActivation::kSilu>
                                                              : GluRow<GateActivation::kGeluTanh>;
  constexpr int64_t kRowsPerTask = 8;  // some microseconds, so that handing it out pays
  const int64_t num_tasks = (params.num_rows + kRowsPerTask - 1) / kRowsPerTask;
  context.pool.ParallelFor(num_tasks, [&](int64_t task, int) {
    const int64_t end = std::min((task + 1) * kRowsPerTask, params.num_rows);
    for (int64_t r = task * kRowsPerTask; r < end; ++r) {
      const float* up = params.up == nullptr ? nullptr : params.up + r * params.up_stride;
      row(params.gate + r * params.gate_stride, up, params.num_columns,
          params.y + r * params.y_stride);
    }
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace nsa::kernels::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace nsa::kernels::cpu {

HWY_EXPORT(GluForTarget);

void Glu(Context& context, const GluParams& params) {
  HWY_DYNAMIC_DISPATCH(GluForTarget)(context, params);
}

}  // namespace nsa::kernels::cpu
#endif
