#include "kernels/ops/merge.h"

#include <algorithm>
#include <cstdint>

#include "kernels/check.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/sparse_attn.h"

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

class StagedMerge final : public StagedCall {
 public:
  explicit StagedMerge(const MergeParams& params) : params_(params) {}

  int num_stages() const override { return 1; }
  int64_t NumTasks(int /*stage*/) const override {
    return (params_.num_rows + kRowsPerTask - 1) / kRowsPerTask;
  }
  bool Follows(int /*stage*/, int /*earlier*/) const override { return true; }
  void RunTask(int /*stage*/, int64_t task, int /*worker*/) override {
    const int64_t end = std::min(params_.num_rows, (task + 1) * kRowsPerTask);
    for (int64_t row = task * kRowsPerTask; row < end; ++row) {
      HWY_DYNAMIC_DISPATCH(MergeRow)(params_, row);
    }
  }

 private:
  const MergeParams& params_;
};

}  // namespace

StagedCallPtr StageMerge(const ListScope& scope, const MergeParams& params) {
  NSA_CHECK(params.num_branches >= 1 && params.num_branches <= kMaxBranches);
  return MakeStagedCall<StagedMerge>(scope, params);
}

void Merge(Context& context, const MergeParams& params) {
  const ListScope scope(context);
  RunStages(context, scope, *StageMerge(scope, params));
}

}  // namespace nsa::kernels::cpu
#endif  // HWY_ONCE
