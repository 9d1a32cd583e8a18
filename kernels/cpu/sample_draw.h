#ifndef NSA_KERNELS_CPU_SAMPLE_DRAW_H_
#define NSA_KERNELS_CPU_SAMPLE_DRAW_H_

#include <cstdint>

#include "kernels/ops/sample.h"

namespace nsa::kernels::cpu {

struct Candidate {
  float logit;
  int32_t id;
};

/// Draws a token from the best `count` ones of the vocabulary (in any order; reordered here), after
/// top_k, top_p and min_p. `total` is the sum of exp((logit − best) / temperature) over the whole
/// vocabulary. Returns −1 where more candidates are needed to know the draw, which cannot be where
/// `is_all`.
int32_t DrawFromBest(const SampleParams& params, Candidate* candidates, int64_t count, bool is_all,
                     double total);

}  // namespace nsa::kernels::cpu

#endif  // NSA_KERNELS_CPU_SAMPLE_DRAW_H_
