#ifndef NSA_KERNELS_REFERENCE_REFERENCE_H_
#define NSA_KERNELS_REFERENCE_REFERENCE_H_

#include <memory>
#include <span>

#include "kernels/backend.h"

/// The operators in scalar float32: one thread, no tricks, each file reads like the paper.
namespace nsa::kernels::reference {

std::unique_ptr<PackedMatrix> Pack(std::span<const WeightMatrix> parts);
void Embed(const EmbedParams& params);
void RmsNorm(const RmsNormParams& params);
void Gemm(const GemmParams& params);
void Glu(const GluParams& params);
void RopeKvWrite(const RopeKvWriteParams& params);
void CmpPool(const CmpPoolParams& params);
void CmpGather(const CmpGatherParams& params);
void CmpScatter(const CmpScatterParams& params);
void CmpCluster(const CmpClusterParams& params);
void CmpAttn(const CmpAttnParams& params);
void ScoreTopk(const ScoreTopkParams& params);
void SelAttn(const SelAttnParams& params);
void WinAttn(const WinAttnParams& params);
void FullAttn(const FullAttnParams& params);
void Merge(const MergeParams& params);
void PageAges(const PageAgesParams& params);
void Sample(const SampleParams& params);

}  // namespace nsa::kernels::reference

#endif  // NSA_KERNELS_REFERENCE_REFERENCE_H_
