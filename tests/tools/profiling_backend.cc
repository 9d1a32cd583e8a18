#include "tests/tools/profiling_backend.h"

#include <chrono>
#include <utility>

namespace nsa::tools {

using Backend = kernels::Backend;

ProfilingBackend::ProfilingBackend(std::unique_ptr<Backend> inner)
    : PassingBackend(std::move(inner)) {
  if (free_bytes().has_value()) flag_ = kernels::Array<int32_t>(this->inner(), 1);
}

template <typename Argument, typename Params>
void ProfilingBackend::Measure(const char* name, void (Backend::*call)(Argument), const Params& p) {
  const auto began = std::chrono::steady_clock::now();
  (inner().*call)(p);
  if (waits_ && on_device()) {
    int32_t flag = 0;
    inner().Read(&flag, flag_.data(), sizeof(flag));
  }
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - began;
  OperatorProfile& profile = profiles_[name];
  ++profile.num_calls;
  profile.seconds += seconds.count();
}

void ProfilingBackend::Gemm(const kernels::GemmParams& p) {
  Measure("gemm", &Backend::Gemm, p);
  profiles_["gemm"].weight_bytes += p.w->num_bytes();
}
void ProfilingBackend::Embed(const kernels::EmbedParams& p) {
  Measure("embed", &Backend::Embed, p);
}
void ProfilingBackend::RmsNorm(const kernels::RmsNormParams& p) {
  Measure("rms_norm", &Backend::RmsNorm, p);
}
void ProfilingBackend::Glu(const kernels::GluParams& p) { Measure("glu", &Backend::Glu, p); }
void ProfilingBackend::RopeKvWrite(const kernels::RopeKvWriteParams& p) {
  Measure("rope_kv_write", &Backend::RopeKvWrite, p);
}
void ProfilingBackend::CmpPool(const kernels::CmpPoolParams& p) {
  Measure("cmp_pool", &Backend::CmpPool, p);
}
void ProfilingBackend::CmpGather(const kernels::CmpGatherParams& p) {
  Measure("cmp_gather", &Backend::CmpGather, p);
}

void ProfilingBackend::CmpScatter(const kernels::CmpScatterParams& p) {
  Measure("cmp_scatter", &Backend::CmpScatter, p);
}

void ProfilingBackend::CmpCluster(const kernels::CmpClusterParams& p) {
  Measure("cmp_cluster", &Backend::CmpCluster, p);
}
void ProfilingBackend::CmpAttn(const kernels::CmpAttnParams& p) {
  Measure("cmp_attn", &Backend::CmpAttn, p);
}
void ProfilingBackend::ScoreTopk(const kernels::ScoreTopkParams& p) {
  Measure("score_topk", &Backend::ScoreTopk, p);
}
void ProfilingBackend::SelAttn(const kernels::SelAttnParams& p) {
  Measure("sel_attn", &Backend::SelAttn, p);
}
void ProfilingBackend::WinAttn(const kernels::WinAttnParams& p) {
  Measure("win_attn", &Backend::WinAttn, p);
}
void ProfilingBackend::SparseAttn(const kernels::SparseAttnParams& p) {
  if (is_apart_) return Backend::SparseAttn(p);
  kernels::SparseAttnTimes times;
  kernels::SparseAttnParams measured = p;
  measured.times = &times;
  Measure("sparse_attn", &Backend::SparseAttn, measured);
  if (p.times != nullptr) {
    p.times->cmp += times.cmp;
    p.times->slc += times.slc;
    p.times->win += times.win;
    p.times->merge += times.merge;
  }
  if (on_device()) return;
  const std::pair<const char*, double> branches[] = {{"sparse_attn.cmp", times.cmp},
                                                     {"sparse_attn.slc", times.slc},
                                                     {"sparse_attn.win", times.win},
                                                     {"sparse_attn.merge", times.merge}};
  for (const auto& [name, seconds] : branches) {
    ++profiles_[name].num_calls;
    profiles_[name].seconds += seconds;
  }
}
void ProfilingBackend::FullAttn(const kernels::FullAttnParams& p) {
  Measure("full_attn", &Backend::FullAttn, p);
}
void ProfilingBackend::Merge(const kernels::MergeParams& p) {
  Measure("merge", &Backend::Merge, p);
}
void ProfilingBackend::PageAges(const kernels::PageAgesParams& p) {
  Measure("page_ages", &Backend::PageAges, p);
}
void ProfilingBackend::Sample(std::span<const kernels::SampleParams> p) {
  Measure("sample", &Backend::Sample, p);
}

}  // namespace nsa::tools
