#ifndef NSA_KERNELS_CUDA_MMA_COMPRESSED_H_
#define NSA_KERNELS_CUDA_MMA_COMPRESSED_H_

#include <cstdint>

#include "kernels/cuda/split_attention.h"

/// The splits of split_attention over compressed rows of 16-bit floats on tensor cores: cmp_attn
/// and the scores of score_topk, which have the same bits in both.
///
/// 64 compressed rows of consecutive pages are a tile. Nothing turns a key. Where keys stand in the
/// frame of the sequence, one rotation of a query serves all tiles; where distances are limited,
/// one rotation serves all pages at the limit, and the few before them are scored in float32, as
/// the plain twin does. A query is the sum of three bfloat16 terms, which leave 2⁻²⁴ of it at most,
/// or of two float16, which leave 2⁻²²; a weight of two, which leave 2⁻¹⁶ or 2⁻²² of it; or either
/// is rounded to one, where the query's precision says so. Keys and values are as they are. A
/// softmax goes over the tiles of its split, from tile to tile. Keys and values that are not
/// finite: as in mma_attention.h.
namespace nsa::kernels::cuda {

/// Whether a call is one of those. It depends on the cache, the precision and the limit of
/// distances alone: the same for all operators of a plan, whatever they leave.
bool TakesCompressedTiles(const SplitAttention& attention);

/// Whether a CTA of a call that leaves masses has all heads of a group.
bool TilesHoldGroups(const SplitAttention& attention);

/// Makes all splits of the rows, as scores, as masses, as parts or joined.
void LaunchMmaCompressed(Stream& stream, const char* name, const SplitAttention& attention);

}  // namespace nsa::kernels::cuda

#endif  // NSA_KERNELS_CUDA_MMA_COMPRESSED_H_
