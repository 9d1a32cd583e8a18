#ifndef NSA_TESTS_ENGINE_PASSING_BACKEND_H_
#define NSA_TESTS_ENGINE_PASSING_BACKEND_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>

#include "kernels/backend.h"

namespace nsa::engine {

/// Passes all on to another backend; derived ones break one thing, or watch. Sparse attention is
/// passed on operator by operator, so that they see each.
class PassingBackend : public kernels::Backend {
 public:
  explicit PassingBackend(std::unique_ptr<kernels::Backend> inner) : inner_(std::move(inner)) {}
  std::string Description() const override { return inner_->Description(); }
  std::optional<int64_t> free_bytes() const override { return inner_->free_bytes(); }
  kernels::Memory Allocate(int64_t num_bytes) override { return inner_->Allocate(num_bytes); }
  void Write(void* target, const void* source, int64_t num_bytes) override {
    inner_->Write(target, source, num_bytes);
  }
  void Read(void* target, const void* source, int64_t num_bytes) override {
    inner_->Read(target, source, num_bytes);
  }
  void WriteAhead(void* target, const void* source, int64_t num_bytes) override {
    inner_->WriteAhead(target, source, num_bytes);
  }
  std::unique_ptr<kernels::SideCopies> MakeSideCopies() override {
    return inner_->MakeSideCopies();
  }
  bool is_asynchronous() const override { return inner_->is_asynchronous(); }
  kernels::Memory AllocateForReads(int64_t num_bytes) override {
    return inner_->AllocateForReads(num_bytes);
  }
  void ReadLater(void* target, const void* source, int64_t num_bytes) override {
    inner_->ReadLater(target, source, num_bytes);
  }
  int64_t Mark() override { return inner_->Mark(); }
  void Wait(int64_t mark) override { inner_->Wait(mark); }
  void BeginStep() override { inner_->BeginStep(); }
  kernels::StoredMatrix Store(const kernels::WeightMatrix& matrix) override {
    return inner_->Store(matrix);
  }
  std::unique_ptr<kernels::PackedMatrix> Pack(std::span<const kernels::WeightMatrix> p) override {
    return inner_->Pack(p);
  }
  void Embed(const kernels::EmbedParams& p) override { inner_->Embed(p); }
  void RmsNorm(const kernels::RmsNormParams& p) override { inner_->RmsNorm(p); }
  void Gemm(const kernels::GemmParams& p) override { inner_->Gemm(p); }
  void Glu(const kernels::GluParams& p) override { inner_->Glu(p); }
  void RopeKvWrite(const kernels::RopeKvWriteParams& p) override { inner_->RopeKvWrite(p); }
  void CmpPool(const kernels::CmpPoolParams& p) override { inner_->CmpPool(p); }
  void CmpGather(const kernels::CmpGatherParams& p) override { inner_->CmpGather(p); }
  void CmpScatter(const kernels::CmpScatterParams& p) override { inner_->CmpScatter(p); }
  void CmpCluster(const kernels::CmpClusterParams& p) override { inner_->CmpCluster(p); }
  void CmpAttn(const kernels::CmpAttnParams& p) override { inner_->CmpAttn(p); }
  void ScoreTopk(const kernels::ScoreTopkParams& p) override { inner_->ScoreTopk(p); }
  void SelAttn(const kernels::SelAttnParams& p) override { inner_->SelAttn(p); }
  void WinAttn(const kernels::WinAttnParams& p) override { inner_->WinAttn(p); }
  void FullAttn(const kernels::FullAttnParams& p) override { inner_->FullAttn(p); }
  void Merge(const kernels::MergeParams& p) override { inner_->Merge(p); }
  void PageAges(const kernels::PageAgesParams& p) override { inner_->PageAges(p); }
  void Sample(std::span<const kernels::SampleParams> p) override { inner_->Sample(p); }

 protected:
  kernels::Backend& inner() { return *inner_; }

 private:
  std::unique_ptr<kernels::Backend> inner_;
};

}  // namespace nsa::engine

#endif  // NSA_TESTS_ENGINE_PASSING_BACKEND_H_
