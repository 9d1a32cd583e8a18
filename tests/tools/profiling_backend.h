#ifndef NSA_TESTS_TOOLS_PROFILING_BACKEND_H_
#define NSA_TESTS_TOOLS_PROFILING_BACKEND_H_

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "kernels/backend.h"

namespace nsa::tools {

/// One operator's account.
struct OperatorProfile {
  int64_t num_calls = 0;
  double seconds = 0;
  int64_t weight_bytes = 0;  // packed weights read, each once a call (gemm)
};

/// Measures another backend: time and calls of every operator. One thread.
class ProfilingBackend final : public kernels::Backend {
 public:
  explicit ProfilingBackend(std::unique_ptr<kernels::Backend> inner) : inner_(std::move(inner)) {}

  const std::map<std::string, OperatorProfile>& profiles() const { return profiles_; }
  void Reset() { profiles_.clear(); }

  std::string Description() const override { return inner_->Description(); }
  std::optional<int64_t> free_bytes() const override { return inner_->free_bytes(); }
  kernels::Memory Allocate(int64_t num_bytes) override { return inner_->Allocate(num_bytes); }
  void Write(void* target, const void* source, int64_t num_bytes) override {
    inner_->Write(target, source, num_bytes);
  }
  void Read(void* target, const void* source, int64_t num_bytes) override {
    inner_->Read(target, source, num_bytes);
  }
  void BeginStep() override { inner_->BeginStep(); }
  kernels::StoredMatrix Store(const kernels::WeightMatrix& matrix) override {
    return inner_->Store(matrix);
  }
  std::unique_ptr<kernels::PackedMatrix> Pack(
      std::span<const kernels::WeightMatrix> parts) override {
    return inner_->Pack(parts);
  }
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
  void FullAttn(const kernels::FullAttnParams& p) override;
  void Merge(const kernels::MergeParams& p) override;
  void PageAges(const kernels::PageAgesParams& p) override;
  void Sample(const kernels::SampleParams& p) override;

 private:
  template <typename Params>
  void Measure(const char* name, void (kernels::Backend::*call)(const Params&), const Params& p);

  std::unique_ptr<kernels::Backend> inner_;
  std::map<std::string, OperatorProfile> profiles_;
};

}  // namespace nsa::tools

#endif  // NSA_TESTS_TOOLS_PROFILING_BACKEND_H_
