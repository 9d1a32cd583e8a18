#ifndef NSA_KERNELS_CUDA_MMA_ATTENTION_H_
#define NSA_KERNELS_CUDA_MMA_ATTENTION_H_

#include <cstdint>

#include "kernels/cuda/split_attention.h"

/// The splits of split_attention on tensor cores, for tokens of 16-bit and 8-bit floats: a page is
/// a tile of keys and one of values (mma_lines.h).
///
/// Turned queries and weights are float32, rounded to one 16-bit float where the query's precision
/// says so. Else they are sums of several: a query of three bfloat16, which leave 2⁻²⁴ of the
/// largest of a head's, or of two float16, which leave 2⁻²² (scaled by powers of two, so that none
/// is too large for float16 or too small); a weight of two, which leave 2⁻¹⁶ of it or 2⁻²². Keys
/// and values are as they are, so products are exact; sums are float32, which a tensor core may
/// round toward zero. A key or a value that is infinite gives NaN.
namespace nsa::kernels::cuda {

/// Whether a call is one of those. It depends on the cache, the group, the precision and the size
/// of sel_blocks alone.
bool TakesTensorCores(const SplitAttention& attention);

/// Makes all splits of the rows, as parts or joined.
void LaunchMmaAttention(Stream& stream, const char* name, const SplitAttention& attention);

}  // namespace nsa::kernels::cuda

#endif  // NSA_KERNELS_CUDA_MMA_ATTENTION_H_
