#ifndef NSA_ENGINE_ATTENTION_ROPE_TABLE_H_
#define NSA_ENGINE_ATTENTION_ROPE_TABLE_H_

#include <cstdint>
#include <vector>

#include "kernels/array.h"
#include "kernels/backend.h"
#include "kernels/ops/attention.h"

namespace nsa::engine {

/// Owns the sine and cosine tables behind a RopeView: one row per offset in a page and one per page
/// distance, computed in double. Immutable.
class RopeTable {
 public:
  /// `inverse_frequencies` [rotary_dim / 2], radians per token; rotations by up to
  /// `max_distance` tokens.
  RopeTable(kernels::Backend& backend, const std::vector<double>& inverse_frequencies,
            int64_t max_distance);

  kernels::RopeView view() const;

 private:
  int rotary_dim_;
  int64_t num_coarse_;
  kernels::Array<float> fine_cos_, fine_sin_;      // [64, rotary_dim/2]
  kernels::Array<float> coarse_cos_, coarse_sin_;  // [num_coarse, rotary_dim/2]
};

/// theta^(−2i/rotary_dim) for i in [0, rotary_dim/2).
std::vector<double> InverseFrequencies(double theta, int rotary_dim);

}  // namespace nsa::engine

#endif  // NSA_ENGINE_ATTENTION_ROPE_TABLE_H_
