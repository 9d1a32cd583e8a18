#ifndef NSA_TESTS_TOOLS_PROFILING_BACKEND_H_
#define NSA_TESTS_TOOLS_PROFILING_BACKEND_H_

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>

#include "kernels/array.h"
#include "kernels/backend.h"
#include "tests/engine/passing_backend.h"

namespace nsa::tools {

/// One operator's account.
struct OperatorProfile {
  int64_t num_calls = 0;
  double seconds = 0;
  int64_t weight_bytes = 0;  // packed weights read, each once a call (gemm)
};

/// Measures another backend: time and calls of every operator. One thread.
///
/// Sparse attention is one operator, `sparse_attn`, and beside it `sparse_attn.cmp` and so on say
/// what its branches took of that; while TakeApart holds its operators are called one by one.
///
/// A call only queues an operator on a device. There its time is told while WaitForOperators holds:
/// each is then launched and waited for by itself, and a step takes longer.
class ProfilingBackend final : public engine::PassingBackend {
 public:
  explicit ProfilingBackend(std::unique_ptr<kernels::Backend> inner);

  /// Whether operators run on a device, which has memory of its own.
  bool on_device() const { return !flag_.empty(); }
  void WaitForOperators(bool waits) { waits_ = waits; }
  void TakeApart(bool is_apart) { is_apart_ = is_apart; }

  const std::map<std::string, OperatorProfile>& profiles() const { return profiles_; }
  void Reset() { profiles_.clear(); }

  void Embed(const kernels::EmbedParams& p) override;
  void RmsNorm(const kernels::RmsNormParams& p) override;
  void Gemm(const kernels::GemmParams& p) override;
  void Glu(const kernels::GluParams& p) override;
  void RopeKvWrite(const kernels::RopeKvWriteParams& p) override;
  void CmpPool(const kernels::CmpPoolParams& p) override;
  void CmpGather(const kernels::CmpGatherParams& p) override;
  void CmpScatter(const kernels::CmpScatterParams& p) override;
  void CmpCluster(const kernels::CmpClusterParams& p) override;
  void CmpAttn(const kernels::CmpAttnParams& p) override;
  void ScoreTopk(const kernels::ScoreTopkParams& p) override;
  void SelAttn(const kernels::SelAttnParams& p) override;
  void WinAttn(const kernels::WinAttnParams& p) override;
  void SparseAttn(const kernels::SparseAttnParams& p) override;
  void FullAttn(const kernels::FullAttnParams& p) override;
  void Merge(const kernels::MergeParams& p) override;
  void PageAges(const kernels::PageAgesParams& p) override;
  void Sample(std::span<const kernels::SampleParams> p) override;

 private:
  template <typename Argument, typename Params>
  void Measure(const char* name, void (kernels::Backend::*call)(Argument), const Params& p);

  std::map<std::string, OperatorProfile> profiles_;
  kernels::Array<int32_t> flag_;  // of a device: what is read in order to wait
  bool waits_ = false;
  bool is_apart_ = false;
};

}  // namespace nsa::tools

#endif  // NSA_TESTS_TOOLS_PROFILING_BACKEND_H_
