#ifndef NSA_KERNELS_SAMPLING_H_
#define NSA_KERNELS_SAMPLING_H_

#include <cstdint>

#include "kernels/ops/sample.h"

namespace nsa::kernels {

/// A uniform number in [0, 1) that depends on (seed, step) alone: two rounds of the splitmix64
/// finaliser (Steele, Lea and Flood).
double UniformDraw(uint64_t seed, uint64_t step);

/// The steps of ops/sample.h that change single logits: penalties, logit_bias, allowed and banned.
void AdjustLogits(const SampleParams& params);

}  // namespace nsa::kernels

#endif  // NSA_KERNELS_SAMPLING_H_
