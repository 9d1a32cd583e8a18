#ifndef NSA_KERNELS_BACKEND_H_
#define NSA_KERNELS_BACKEND_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "kernels/memory.h"
#include "kernels/ops/cmp_attn.h"
#include "kernels/ops/cmp_cluster.h"
#include "kernels/ops/cmp_gather.h"
#include "kernels/ops/cmp_pool.h"
#include "kernels/ops/cmp_scatter.h"
#include "kernels/ops/elementwise.h"
#include "kernels/ops/full_attn.h"
#include "kernels/ops/gemm.h"
#include "kernels/ops/merge.h"
#include "kernels/ops/page_ages.h"
#include "kernels/ops/rope_kv_write.h"
#include "kernels/ops/sample.h"
#include "kernels/ops/score_topk.h"
#include "kernels/ops/sel_attn.h"
#include "kernels/ops/sparse_attn.h"
#include "kernels/ops/win_attn.h"
#include "kernels/side_copies.h"

namespace nsa::kernels {

/// A weight matrix in the form of its file, where a backend's operators can read it.
struct StoredMatrix {
  WeightMatrix matrix;
  Memory memory;  // of the matrix, unless the file's own serves
};

/// One device's implementation of every operator. Calls come from one thread at a time, and take
/// effect in their order. Every operator is row-invariant (design.md §2): the bits of a row's
/// result do not depend on how many rows, segments, threads or calls there are.
///
/// What operators read and write is memory of this backend (Allocate, Array), but for what changes
/// with every step and comes from the host: segments and their page tables, ids and places, n of
/// each row (row_num_selected_blocks), and all of SampleParams but logits and token. The host may
/// touch what was written after Read, and at once where a backend is not asynchronous and has no
/// memory of its own (free_bytes() is nothing).
class Backend {
 public:
  virtual ~Backend() = default;

  /// For logs: backend, instruction set, threads.
  virtual std::string Description() const = 0;

  /// Bytes that Allocate may still give, where the device has memory of its own.
  virtual std::optional<int64_t> free_bytes() const { return std::nullopt; }
  /// Zeroed, 64-byte aligned; without data where there is not enough.
  virtual Memory Allocate(int64_t num_bytes);
  /// Copies to and from memory of Allocate, in order with operators; done when they return.
  virtual void Write(void* target, const void* source, int64_t num_bytes);
  virtual void Read(void* target, const void* source, int64_t num_bytes);
  /// As Write, for a few bytes that operators called from now on find there. The source is free at
  /// once; nobody waits.
  virtual void WriteAhead(void* target, const void* source, int64_t num_bytes);
  /// Copies that run beside the operators, where the device has memory of its own, and a little of
  /// it left; else null. What is returned goes before the backend does.
  virtual std::unique_ptr<SideCopies> MakeSideCopies();

  /// Whether calls only ask for what is done behind them: it pays then to ask for a step before
  /// the results of the one before have been looked at.
  virtual bool is_asynchronous() const { return false; }
  /// Host memory for ReadLater, zeroed; without data where there is not enough.
  virtual Memory AllocateForReads(int64_t num_bytes);
  /// A Read into memory of AllocateForReads that is done when Wait returns for a later Mark.
  virtual void ReadLater(void* target, const void* source, int64_t num_bytes);
  /// A place in the order of calls.
  virtual int64_t Mark() { return 0; }
  /// Until all that was asked before the mark is done.
  virtual void Wait(int64_t mark) { (void)mark; }

  /// Opens a step: what the host gave to operators before may have changed, or be gone, whether
  /// they are done or not. Within a step it stays as it is.
  virtual void BeginStep() {}

  /// The matrix for Embed. `matrix` outlives what is returned.
  virtual StoredMatrix Store(const WeightMatrix& matrix);

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
  /// Calls the operators one by one, where a backend has nothing better.
  virtual void SparseAttn(const SparseAttnParams& params);
  virtual void FullAttn(const FullAttnParams& params) = 0;
  virtual void Merge(const MergeParams& params) = 0;
  virtual void PageAges(const PageAgesParams& params) = 0;
  /// Each row for itself; a row's lists are the host's, its logits and token the backend's.
  virtual void Sample(std::span<const SampleParams> rows) = 0;
};

/// Scalar float32, one thread: the oracle.
std::unique_ptr<Backend> MakeReferenceBackend();

/// Highway with run-time dispatch; without it (NSA_BUILD_CPU=OFF) the reference. num_threads ≥ 1.
std::unique_ptr<Backend> MakeCpuBackend(int num_threads);

/// The first GPU that CUDA shows this process, or why there is none: built without CUDA, no device,
/// too old a driver or a device.
struct CudaDevice {
  std::unique_ptr<Backend> backend;
  std::string error;  // where there is no backend
};
CudaDevice OpenCudaDevice();

}  // namespace nsa::kernels

#endif  // NSA_KERNELS_BACKEND_H_
