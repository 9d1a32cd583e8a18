#ifndef NSA_KERNELS_CUDA_SOFTMAX_H_
#define NSA_KERNELS_CUDA_SOFTMAX_H_

#include "kernels/cuda/device.h"
#include "kernels/cuda/reduce.h"

namespace nsa::kernels::cuda {

/// A softmax over some rows: Σ exp(score − maximum), and the same with values. Joining goes over
/// parts in rising order.
struct Softmax {
  float maximum = -Infinity();
  float sum = 0;
};
/// What a sum so far and a new one are multiplied by. A NaN stays.
struct JoinFactors {
  float before;
  float added;
};
NSA_DEVICE JoinFactors Join(Softmax& so_far, float maximum, float sum) {
  const float joint = MaxOrNan(maximum, so_far.maximum);
  const JoinFactors f = {so_far.maximum == -Infinity() ? 0.0f : Exp(so_far.maximum - joint),
                         maximum == -Infinity() ? 0.0f : Exp(maximum - joint)};
  so_far = {joint, so_far.sum * f.before + sum * f.added};
  return f;
}
NSA_DEVICE float LogSumExp(const Softmax& s) {
  return s.maximum == -Infinity() ? s.maximum : s.maximum + Log(s.sum);
}
NSA_DEVICE float Quotient(float out, const Softmax& s) {
  return s.maximum == -Infinity() ? 0.0f : FastDivide(out, s.sum);
}

}  // namespace nsa::kernels::cuda

#endif  // NSA_KERNELS_CUDA_SOFTMAX_H_
