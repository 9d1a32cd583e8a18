#ifndef NSA_KERNELS_ACTIVATION_H_
#define NSA_KERNELS_ACTIVATION_H_

#include <cstdint>
#include <vector>

namespace nsa::kernels {

/// Columns of an activation row that share a scale.
inline constexpr int kActivationGroup = 32;

/// Largest magnitude of a quantised activation: 127·256 + 127, so that it splits into two signed
/// bytes hi·256 + lo, which 8-bit dot-product instructions take.
inline constexpr int kActivationMax = 127 * 256 + 127;

/// One activation row in 16-bit integers.
struct QuantisedRow {
  std::vector<int16_t> q;    // [columns]
  std::vector<float> scale;  // [columns / 32]
};

/// q = round(x · (kActivationMax / amax)) to nearest even, scale = amax / kActivationMax, per group
/// of
/// 32. A group with an infinity or a NaN gets scale NaN, so that the damage shows in the result.
/// `num_columns` is a multiple of 32.
void QuantiseRow(const float* x, int64_t num_columns, QuantisedRow& row);

}  // namespace nsa::kernels

#endif  // NSA_KERNELS_ACTIVATION_H_
