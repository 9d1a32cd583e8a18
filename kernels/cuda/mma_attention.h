#ifndef NSA_KERNELS_CUDA_MMA_ATTENTION_H_
#define NSA_KERNELS_CUDA_MMA_ATTENTION_H_

#include <cstdint>

#include "kernels/cuda/split_attention.h"

/// The splits of split_attention on tensor cores, for tokens of 16-bit floats: the heads of a group
/// are the 16 rows of mma.m16n8k16, a page is a tile of keys and a tile of values.
///
/// Turned queries and weights are float32, rounded to one 16-bit float where the query's precision
/// says so; else taken as the sum of three each: hi + mid + lo leave less than 2⁻²³ of the largest
/// of a head's queries, and of a weight (scaled by powers of two, so that none is too large for
/// float16 or too small). Keys and values are 16-bit floats as they are, so products are exact;
/// sums are float32, which a tensor core may round toward zero. So results of three are as near to
/// the reference as those of the plain kernels. A key or a value that is infinite gives NaN.
namespace nsa::kernels::cuda {

/// Whether a call is one of those. It depends on the cache, the precision and the size of
/// sel_blocks alone.
bool TakesTensorCores(const SplitAttention& attention);

/// Makes all splits of the rows, as parts or joined.
void LaunchMmaAttention(Stream& stream, const char* name, const SplitAttention& attention);

}  // namespace nsa::kernels::cuda

#endif  // NSA_KERNELS_CUDA_MMA_ATTENTION_H_
