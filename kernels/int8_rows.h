#ifndef NSA_KERNELS_INT8_ROWS_H_
#define NSA_KERNELS_INT8_ROWS_H_

#include <cmath>
#include <cstdint>
#include <limits>

/// Rows of the KV cache as 8-bit integers with one scale a row.
namespace nsa::kernels {

inline constexpr float kInt8RowMax = 127;

/// What a row is multiplied by and what its scale is, from its largest magnitude. Rows too small to
/// divide by become zeros; rows that are not finite get the scale NaN, so that whatever reads them
/// is NaN too.
struct Int8RowScale {
  float inverse = 0;
  float scale = 0;

  explicit Int8RowScale(float largest) {
    if (!std::isfinite(largest)) {
      scale = std::numeric_limits<float>::quiet_NaN();
      return;
    }
    scale = largest / kInt8RowMax;
    inverse = kInt8RowMax / largest;
    if (!std::isfinite(inverse)) inverse = 0;
  }
};

}  // namespace nsa::kernels

#endif  // NSA_KERNELS_INT8_ROWS_H_
