#ifndef NSA_KERNELS_OPS_CMP_SCATTER_H_
#define NSA_KERNELS_OPS_CMP_SCATTER_H_

#include "kernels/ops/attention.h"
#include "kernels/ops/cmp_gather.h"

namespace nsa::kernels {

/// Stores compressed rows that were made elsewhere (NSA Eq. 7, φ's output), rounded to the rows'
/// type. Keys come not rotated and are turned to their window's first position, in the frame of
/// PagedKv; without rotation where the rope has none.
struct CmpScatterParams {
  CompressedRows rows;
  RopeView rope;             // covers the rows' pages where keys are absolute
  const float* x = nullptr;  // [num_rows, head_dim], dense
};

}  // namespace nsa::kernels

#endif  // NSA_KERNELS_OPS_CMP_SCATTER_H_
