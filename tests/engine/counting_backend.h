#ifndef NSA_TESTS_ENGINE_COUNTING_BACKEND_H_
#define NSA_TESTS_ENGINE_COUNTING_BACKEND_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>

#include "tests/engine/passing_backend.h"

namespace nsa::engine {

/// Counts calls by operator, and the bytes of packed weights behind them.
class CountingBackend final : public PassingBackend {
 public:
  using PassingBackend::PassingBackend;

  /// What has been called since Reset.
  std::map<std::string, int64_t> calls() const {
    std::map<std::string, int64_t> calls;
    for (const auto& [name, count] : counts_) {
      if (count > 0) calls[name] = count;
    }
    return calls;
  }
  int64_t weight_bytes() const { return weight_bytes_; }
  void Reset() {
    for (auto& [name, count] : counts_) count = 0;
    weight_bytes_ = 0;
  }

  void Embed(const kernels::EmbedParams& p) override { Count("embed"), PassingBackend::Embed(p); }
  void RmsNorm(const kernels::RmsNormParams& p) override {
    Count("rms_norm"), PassingBackend::RmsNorm(p);
  }
  void Gemm(const kernels::GemmParams& p) override {
    Count("gemm"), PassingBackend::Gemm(p);
    weight_bytes_ += p.w->num_bytes();
  }
  void Glu(const kernels::GluParams& p) override { Count("glu"), PassingBackend::Glu(p); }
  void RopeKvWrite(const kernels::RopeKvWriteParams& p) override {
    Count("rope_kv_write"), PassingBackend::RopeKvWrite(p);
  }
  void CmpPool(const kernels::CmpPoolParams& p) override {
    Count("cmp_pool"), PassingBackend::CmpPool(p);
  }
  void CmpGather(const kernels::CmpGatherParams& p) override {
    Count("cmp_gather"), PassingBackend::CmpGather(p);
  }
  void CmpScatter(const kernels::CmpScatterParams& p) override {
    Count("cmp_scatter"), PassingBackend::CmpScatter(p);
  }
  void CmpCluster(const kernels::CmpClusterParams& p) override {
    Count("cmp_cluster"), PassingBackend::CmpCluster(p);
  }
  void CmpAttn(const kernels::CmpAttnParams& p) override {
    Count("cmp_attn"), PassingBackend::CmpAttn(p);
  }
  void ScoreTopk(const kernels::ScoreTopkParams& p) override {
    Count("score_topk"), PassingBackend::ScoreTopk(p);
  }
  void SelAttn(const kernels::SelAttnParams& p) override {
    Count("sel_attn"), PassingBackend::SelAttn(p);
  }
  void WinAttn(const kernels::WinAttnParams& p) override {
    Count("win_attn"), PassingBackend::WinAttn(p);
  }
  void FullAttn(const kernels::FullAttnParams& p) override {
    Count("full_attn"), PassingBackend::FullAttn(p);
  }
  void Merge(const kernels::MergeParams& p) override { Count("merge"), PassingBackend::Merge(p); }
  void PageAges(const kernels::PageAgesParams& p) override {
    Count("page_ages"), PassingBackend::PageAges(p);
  }
  void Sample(std::span<const kernels::SampleParams> p) override {
    Count("sample"), PassingBackend::Sample(p);
  }

 private:
  void Count(const char* name) { ++counts_[name]; }

  // Keys stay once they are there, so that counting takes memory the first time alone.
  std::map<std::string, int64_t, std::less<>> counts_;
  int64_t weight_bytes_ = 0;
};

}  // namespace nsa::engine

#endif  // NSA_TESTS_ENGINE_COUNTING_BACKEND_H_
