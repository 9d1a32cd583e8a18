#ifndef NSA_KERNELS_AFFINE_H_
#define NSA_KERNELS_AFFINE_H_

#include <cstdint>

#include "kernels/quant.h"

namespace nsa::kernels {

/// Every quantised format in one form: w = scale·q + minimum with unsigned q, or, for symmetric
/// formats, w = scale·(q − offset).
struct AffineFormat {
  int num_bits = 8;          // of q as packed: 4 or 8
  int group_size = 32;       // columns that share scale and minimum: 32 or 16
  int symmetric_offset = 0;  // above 0: no minimum
  bool half_scales = true;   // scale and minimum are exact in float16
};

/// One block of a file (up to 256 columns) in that form.
struct AffineBlock {
  uint8_t q[256];
  float scale[16];    // [columns / group_size]
  float minimum[16];  // as scale; unset for symmetric formats
};

/// `type` is a quantised one.
AffineFormat FindAffineFormat(WeightType type);

/// `source` holds one block of `type` (FindWeightBlock), at any alignment.
void UnpackAffine(WeightType type, const uint8_t* source, AffineBlock& block);

}  // namespace nsa::kernels

#endif  // NSA_KERNELS_AFFINE_H_
