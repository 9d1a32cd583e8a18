#ifndef NSA_KERNELS_CUDA_GRAD_BACKWARD_H_
#define NSA_KERNELS_CUDA_GRAD_BACKWARD_H_

#include "kernels/cuda/device.h"

namespace nsa::kernels::cuda {

/// A probability, from scale·q·k and the log-sum-exp, both in units of log₂, and the gradient of
/// its score but for the scale (FlashAttention-2, arXiv 2307.08691, Algorithm 2).
struct GradScore {
  float p;
  float ds;
};
NSA_DEVICE GradScore ToGradScore(bool is_seen, float score, float lse, float grad_p, float delta) {
  if (!is_seen) return {0, 0};
  const float p = Exp2(score - lse);
  return {p, p * (grad_p - delta)};
}

}  // namespace nsa::kernels::cuda

#endif  // NSA_KERNELS_CUDA_GRAD_BACKWARD_H_
