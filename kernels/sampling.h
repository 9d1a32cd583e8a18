#ifndef NSA_KERNELS_SAMPLING_H_
#define NSA_KERNELS_SAMPLING_H_

#include <cstdint>

#include "kernels/ops/sample.h"

namespace nsa::kernels {

/// One step of splitmix64 (Steele, Lea and Flood).
constexpr uint64_t MixBits(uint64_t z) {
  z += 0x9E3779B97F4A7C15u;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}

/// 53 uniform bits that depend on (seed, step) alone.
constexpr uint64_t DrawBits(uint64_t seed, uint64_t step) {
  return MixBits(MixBits(seed) ^ step) >> 11;
}

/// The same as a number in [0, 1).
constexpr double UniformDraw(uint64_t seed, uint64_t step) {
  return static_cast<double>(DrawBits(seed, step)) * 0x1p-53;
}

/// A logit after repetition, frequency and presence penalty.
constexpr float Penalise(const SampleParams& p, const TokenCount& count, float logit) {
  if (count.num_in_prompt + count.num_generated > 0) {
    logit = logit > 0 ? logit / p.repetition_penalty : logit * p.repetition_penalty;
  }
  if (count.num_generated > 0) {
    logit -= p.frequency_penalty * static_cast<float>(count.num_generated) + p.presence_penalty;
  }
  return logit;
}

/// The steps of ops/sample.h that change single logits: penalties, logit_bias, allowed and banned.
void AdjustLogits(const SampleParams& params);

}  // namespace nsa::kernels

#endif  // NSA_KERNELS_SAMPLING_H_
