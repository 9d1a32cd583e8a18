#include "kernels/backend.h"

#include <memory>
#include <span>
#include <string>

#include "kernels/cpu/cpu.h"

namespace nsa::kernels {
namespace {

class CpuBackend final : public Backend {
 public:
  explicit CpuBackend(int num_threads) : context_(num_threads) {}

  std::string Description() const override {
    return "cpu (" + cpu::TargetName() + ", " + std::to_string(context_.pool.num_threads()) +
           " threads)";
  }
  std::unique_ptr<PackedMatrix> Pack(std::span<const WeightMatrix> parts) override {
    return cpu::Pack(context_, parts);
  }
  void Embed(const EmbedParams& p) override { cpu::Embed(context_, p); }
  void RmsNorm(const RmsNormParams& p) override { cpu::RmsNorm(context_, p); }
  void Gemm(const GemmParams& p) override { cpu::Gemm(context_, p); }
  void Glu(const GluParams& p) override { cpu::Glu(context_, p); }
  void RopeKvWrite(const RopeKvWriteParams& p) override { cpu::RopeKvWrite(context_, p); }
  void CmpPool(const CmpPoolParams& p) override { cpu::CmpPool(context_, p); }
  void CmpGather(const CmpGatherParams& p) override { cpu::CmpGather(context_, p); }
  void CmpScatter(const CmpScatterParams& p) override { cpu::CmpScatter(context_, p); }
  void CmpCluster(const CmpClusterParams& p) override { cpu::CmpCluster(context_, p); }
  void CmpAttn(const CmpAttnParams& p) override { cpu::CmpAttn(context_, p); }
  void ScoreTopk(const ScoreTopkParams& p) override { cpu::ScoreTopk(context_, p); }
  void SelAttn(const SelAttnParams& p) override { cpu::SelAttn(context_, p); }
  void WinAttn(const WinAttnParams& p) override { cpu::WinAttn(context_, p); }
  void SparseAttn(const SparseAttnParams& p) override {
    if (p.on_chosen != nullptr) return Backend::SparseAttn(p);
    cpu::SparseAttn(context_, p);
  }
  void FullAttn(const FullAttnParams& p) override { cpu::FullAttn(context_, p); }
  void Merge(const MergeParams& p) override { cpu::Merge(context_, p); }
  void PageAges(const PageAgesParams& p) override { cpu::PageAges(context_, p); }
  void Sample(std::span<const SampleParams> rows) override {
    for (const SampleParams& p : rows) cpu::Sample(context_, p);
  }

 private:
  cpu::Context context_;
};

}  // namespace

std::unique_ptr<Backend> MakeCpuBackend(int num_threads) {
  return std::make_unique<CpuBackend>(num_threads);
}

}  // namespace nsa::kernels
