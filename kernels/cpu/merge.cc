#include "kernels/ops/merge.h"

#include <algorithm>
#include <cstdint>

#include "kernels/check.h"
#include "kernels/cpu/cpu.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/merge.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "kernels/cpu/attention-inl.h"

HWY_BEFORE_NAMESPACE();
namespace nsa::kernels::cpu {
namespace HWY_NAMESPACE {

/// The factor of each branch's output for one (row, head).
HWY_INLINE void BranchWeights(const MergeParams& params, int64_t row, int head, float* weights) {
  if (params.gate_logits != nullptr) {
    const float* logits =
        params.gate_logits + row * params.gate_stride + int64_t{head} * params.num_branches;
    for (int c = 0; c < params.num_branches; ++c) {
      weights[c] = 1.0f / (1.0f + ScalarExp(-logits[c]));
    }
    return;
  }
  const int64_t index = row * params.num_q_heads + head;
  float maximum = kNegativeInfinity;
  for (int c = 0; c < params.num_branches; ++c) {
    const float lse = params.branches[c].lse[index];
    maximum = lse <= maximum ? maximum : lse;  // keeps NaN
  }
  float sum = 0;
  for (int c = 0; c < params.num_branches; ++c) {
    weights[c] = ScalarExp(params.branches[c].lse[index] - FiniteMaximum(maximum));
    sum += weights[c];
  }
  for (int c = 0; c < params.num_branches && sum != 0; ++c) weights[c] /= sum;
}

void MergeRow(const MergeParams& params, int64_t row) {
  const F32Tag d;
  const int lanes = static_cast<int>(hn::Lanes(d));
  for (int head = 0; head < params.num_q_heads; ++head) {
    float weights[kMaxBranches];
    BranchWeights(params, row, head, weights);
    const int64_t offset = (row * params.num_q_heads + head) * params.head_dim_v;
    float* y = params.y + row * params.y_stride + int64_t{head} * params.head_dim_v;
    int dim = 0;
    for (; dim + lanes <= params.head_dim_v; dim += lanes) {
      auto sum = hn::Zero(d);
      for (int c = 0; c < params.num_branches; ++c) {
        const auto x = hn::LoadU(d, params.branches[c].out + offset + dim);
        sum = hn::MulAdd(hn::Set(d, weights[c]), x, sum);
      }
      hn::StoreU(sum, d, y + dim);
    }
    for (; dim < params.head_dim_v; ++dim) {
      float sum = 0;
      for (int c = 0; c < params.num_branches; ++c) {
        sum += weights[c] * params.branches[c].out[offset + dim];
      }
      y[dim] = sum;
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace nsa::kernels::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace nsa::kernels::cpu {
namespace {
HWY_EXPORT(MergeRow);

/// Rows of one task: enough work to be worth handing out.
constexpr int64_t kRowsPerTask = 16;
}  // namespace

void Merge(Context& context, const MergeParams& params) {
  NSA_CHECK(params.num_branches >= 1 && params.num_branches <= kMaxBranches);
  const int64_t num_tasks = (params.num_rows + kRowsPerTask - 1) / kRowsPerTask;
  context.pool.ParallelFor(num_tasks, [&](int64_t task, int) {
    const int64_t end = std::min(params.num_rows, (task + 1) * kRowsPerTask);
    for (int64_t row = task * kRowsPerTask; row < end; ++row) {
      HWY_DYNAMIC_DISPATCH(MergeRow)(params, row);
    }
  });
}

}  // namespace nsa::kernels::cpu
#endif  // HWY_ONCE
