#ifndef NSA_KERNELS_BACKEND_H_
#define NSA_KERNELS_BACKEND_H_

#include <memory>
#include <span>
#include <string>

#include "kernels/ops/cmp_attn.h"
#include "kernels/ops/cmp_cluster.h"
#include "kernels/ops/cmp_gather.h"
#include "kernels/ops/cmp_pool.h"
#include "kernels/ops/cmp_scatter.h"
#include "kernels/ops/elementwise.h"
#include "kernels/ops/full_attn.h"
#include "kernels/ops/gemm.h"
#include "kernels/ops/merge.h"
#include "kernels/ops/rope_kv_write.h"
#include "kernels/ops/sample.h"
#include "kernels/ops/score_topk.h"
#include "kernels/ops/sel_attn.h"
#include "kernels/ops/win_attn.h"

namespace nsa::kernels {

/// One device's implementation of every operator. Calls come from one thread at a time; each
/// returns when its results are written. Every operator is row-invariant (design.md §2): the bits
/// of a row's result do not depend on how many rows, segments, threads or calls there are.
class Backend {
 public:
  virtual ~Backend() = default;

  /// For logs: backend, instruction set, threads.
  virtual std::string Description() const = 0;

  /// Brings matrices with the same number of columns, of the same or of different types, into this
  /// backend's layout as one matrix: their rows stand one after the other. Copies; `parts` may go.
  virtual std::unique_ptr<PackedMatrix> Pack(std::span<const WeightMatrix> parts) = 0;

  virtual void Embed(const EmbedParams& params) = 0;
  virtual void RmsNorm(const RmsNormParams& params) = 0;
  virtual void Gemm(const GemmParams& params) = 0;
  virtual void Glu(const GluParams& params) = 0;
  virtual void RopeKvWrite(const RopeKvWriteParams& params) = 0;
  virtual void CmpPool(const CmpPoolParams& params) = 0;
  virtual void CmpGather(const CmpGatherParams& params) = 0;
  virtual void CmpScatter(const CmpScatterParams& params) = 0;
  virtual void CmpCluster(const CmpClusterParams& params) = 0;
  virtual void CmpAttn(const CmpAttnParams& params) = 0;
  virtual void ScoreTopk(const ScoreTopkParams& params) = 0;
  virtual void SelAttn(const SelAttnParams& params) = 0;
  virtual void WinAttn(const WinAttnParams& params) = 0;
  virtual void FullAttn(const FullAttnParams& params) = 0;
  virtual void Merge(const MergeParams& params) = 0;
  virtual void Sample(const SampleParams& params) = 0;
};

/// Scalar float32, one thread: the oracle.
std::unique_ptr<Backend> MakeReferenceBackend();

/// Highway with run-time dispatch; without it (NSA_BUILD_CPU=OFF) the reference. num_threads ≥ 1.
std::unique_ptr<Backend> MakeCpuBackend(int num_threads);

}  // namespace nsa::kernels

#endif  // NSA_KERNELS_BACKEND_H_
