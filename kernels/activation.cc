#include "kernels/activation.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace nsa::kernels {

void QuantiseRow(const float* x, int64_t num_columns, QuantisedRow& row) {
  row.q.assign(static_cast<size_t>(num_columns), 0);
  row.scale.assign(static_cast<size_t>(num_columns / kActivationGroup), 0.0f);
  for (int64_t first = 0; first < num_columns; first += kActivationGroup) {
    float amax = 0;
    bool finite = true;
    for (int64_t i = first; i < first + kActivationGroup; ++i) {
      amax = std::max(amax, std::fabs(x[i]));
      finite = finite && std::isfinite(x[i]);
    }
    float& scale = row.scale[static_cast<size_t>(first / kActivationGroup)];
    scale = finite ? amax / kActivationMax : std::numeric_limits<float>::quiet_NaN();
    const float inverse = kActivationMax / amax;
    // Below some 1e-34 the inverse overflows; such a group counts as zeros.
    if (!finite || !std::isfinite(inverse)) continue;
    for (int64_t i = first; i < first + kActivationGroup; ++i) {
      const float scaled = std::nearbyint(x[i] * inverse);
      row.q[static_cast<size_t>(i)] = static_cast<int16_t>(std::clamp(
          scaled, -static_cast<float>(kActivationMax), static_cast<float>(kActivationMax)));
    }
  }
}

}  // namespace nsa::kernels
