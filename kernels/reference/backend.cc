#include "kernels/backend.h"

#include <memory>
#include <span>
#include <string>

#include "kernels/reference/reference.h"

namespace nsa::kernels {
namespace {

class ReferenceBackend final : public Backend {
 public:
  std::string Description() const override { return "reference (scalar float32, 1 thread)"; }
  std::unique_ptr<PackedMatrix> Pack(std::span<const WeightMatrix> parts) override {
    return reference::Pack(parts);
  }
  void Embed(const EmbedParams& p) override { reference::Embed(p); }
  void RmsNorm(const RmsNormParams& p) override { reference::RmsNorm(p); }
  void Gemm(const GemmParams& p) override { reference::Gemm(p); }
  void Glu(const GluParams& p) override { reference::Glu(p); }
  void RopeKvWrite(const RopeKvWriteParams& p) override { reference::RopeKvWrite(p); }
  void CmpPool(const CmpPoolParams& p) override { reference::CmpPool(p); }
  void CmpGather(const CmpGatherParams& p) override { reference::CmpGather(p); }
  void CmpScatter(const CmpScatterParams& p) override { reference::CmpScatter(p); }
  void CmpCluster(const CmpClusterParams& p) override { reference::CmpCluster(p); }
  void CmpAttn(const CmpAttnParams& p) override { reference::CmpAttn(p); }
  void ScoreTopk(const ScoreTopkParams& p) override { reference::ScoreTopk(p); }
  void SelAttn(const SelAttnParams& p) override { reference::SelAttn(p); }
  void WinAttn(const WinAttnParams& p) override { reference::WinAttn(p); }
  void FullAttn(const FullAttnParams& p) override { reference::FullAttn(p); }
  void Merge(const MergeParams& p) override { reference::Merge(p); }
  void PageAges(const PageAgesParams& p) override { reference::PageAges(p); }
  void Sample(std::span<const SampleParams> rows) override {
    for (const SampleParams& p : rows) reference::Sample(p);
  }
};

}  // namespace

std::unique_ptr<Backend> MakeReferenceBackend() { return std::make_unique<ReferenceBackend>(); }

}  // namespace nsa::kernels
