#ifndef NSA_TESTS_ENGINE_LATE_BACKEND_H_
#define NSA_TESTS_ENGINE_LATE_BACKEND_H_

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <deque>
#include <functional>
#include <memory>
#include <random>
#include <span>
#include <utility>
#include <vector>

#include "tests/engine/passing_backend.h"

namespace nsa::engine {

/// A backend of this machine made asynchronous: what it is asked for is done when somebody waits
/// for it, or by chance before, in its order. What the host brings is copied when it is brought.
class LateBackend final : public PassingBackend {
 public:
  /// Read when the engine is gone.
  struct Counts {
    int64_t num_steps_ahead = 0;  // that began while an earlier one had not been waited for
    int64_t num_reads = 0;        // that waited
    int64_t num_marks = 0;
  };

  LateBackend(std::unique_ptr<kernels::Backend> inner, Counts* counts, uint32_t seed)
      : PassingBackend(std::move(inner)), counts_(counts), random_(seed) {}
  ~LateBackend() override { Finish(); }

  bool is_asynchronous() const override { return true; }
  kernels::Memory Allocate(int64_t num_bytes) override {
    Finish();
    return PassingBackend::Allocate(num_bytes);
  }
  void Write(void* target, const void* source, int64_t num_bytes) override {
    Finish();
    PassingBackend::Write(target, source, num_bytes);
  }
  void Read(void* target, const void* source, int64_t num_bytes) override {
    Finish();
    ++counts_->num_reads;
    PassingBackend::Read(target, source, num_bytes);
  }
  void ReadLater(void* target, const void* source, int64_t num_bytes) override {
    std::memset(target, 0xA5, static_cast<size_t>(num_bytes));  // shows where nobody waits
    Do([this, target, source, num_bytes] { PassingBackend::Read(target, source, num_bytes); });
  }
  int64_t Mark() override {
    ++counts_->num_marks;
    return latest_mark_ = num_done_ + std::ssize(work_);
  }
  void Wait(int64_t mark) override {
    waited_ = std::max(waited_, mark);
    while (num_done_ < mark) DoNext();
  }
  void BeginStep() override { counts_->num_steps_ahead += latest_mark_ > waited_ ? 1 : 0; }

  void Embed(const kernels::EmbedParams& p) override {
    auto ids = Copy(p.ids, p.num_rows);
    auto places = Copy(p.places, p.num_rows);
    Do([this, p = p, ids, places]() mutable {
      p.ids = ids.data();
      p.places = p.places == nullptr ? nullptr : places.data();
      PassingBackend::Embed(p);
    });
  }
  void RmsNorm(const kernels::RmsNormParams& p) override {
    Do([this, p] { PassingBackend::RmsNorm(p); });
  }
  void Gemm(const kernels::GemmParams& p) override {
    Do([this, p] { PassingBackend::Gemm(p); });
  }
  void Glu(const kernels::GluParams& p) override {
    Do([this, p] { PassingBackend::Glu(p); });
  }
  void Merge(const kernels::MergeParams& p) override {
    Do([this, p] { PassingBackend::Merge(p); });
  }
  void RopeKvWrite(const kernels::RopeKvWriteParams& p) override {
    DoFor(&kernels::Backend::RopeKvWrite, p, p);
  }
  void CmpPool(const kernels::CmpPoolParams& p) override {
    DoFor(&kernels::Backend::CmpPool, p, p);
  }
  void CmpCluster(const kernels::CmpClusterParams& p) override {
    DoFor(&kernels::Backend::CmpCluster, p, p);
  }
  void PageAges(const kernels::PageAgesParams& p) override {
    DoFor(&kernels::Backend::PageAges, p, p);
  }
  void CmpGather(const kernels::CmpGatherParams& p) override {
    DoFor(&kernels::Backend::CmpGather, p, p.rows, &kernels::CmpGatherParams::rows);
  }
  void CmpScatter(const kernels::CmpScatterParams& p) override {
    DoFor(&kernels::Backend::CmpScatter, p, p.rows, &kernels::CmpScatterParams::rows);
  }
  void CmpAttn(const kernels::CmpAttnParams& p) override {
    DoFor(&kernels::Backend::CmpAttn, p, p.query, &kernels::CmpAttnParams::query);
  }
  void SelAttn(const kernels::SelAttnParams& p) override {
    DoFor(&kernels::Backend::SelAttn, p, p.query, &kernels::SelAttnParams::query);
  }
  void WinAttn(const kernels::WinAttnParams& p) override {
    DoFor(&kernels::Backend::WinAttn, p, p.query, &kernels::WinAttnParams::query);
  }
  void FullAttn(const kernels::FullAttnParams& p) override {
    DoFor(&kernels::Backend::FullAttn, p, p.query, &kernels::FullAttnParams::query);
  }
  void ScoreTopk(const kernels::ScoreTopkParams& p) override {
    Segments segments(p.query.segments, p.query.num_segments);
    auto blocks = Copy(p.row_num_selected_blocks, segments.end_row());
    Do([this, p = p, segments, blocks]() mutable {
      p.query.segments = segments.data();
      p.row_num_selected_blocks = p.row_num_selected_blocks == nullptr ? nullptr : blocks.data();
      PassingBackend::ScoreTopk(p);
    });
  }
  void Sample(std::span<const kernels::SampleParams> rows) override {
    for (const kernels::SampleParams& row : rows) {
      auto counts = Copy(row.counts, row.num_counts);
      auto biases = Copy(row.biases, row.num_biases);
      auto banned = Copy(row.banned, row.num_banned);
      auto allowed = Copy(row.allowed, row.num_allowed);
      Do([this, row = row, counts, biases, banned, allowed]() mutable {
        row.counts = counts.data();
        row.biases = biases.data();
        row.banned = banned.data();
        row.allowed = row.allowed == nullptr ? nullptr : allowed.data();
        PassingBackend::Sample({&row, 1});
      });
    }
  }

 private:
  /// Segments with page tables of their own.
  class Segments {
   public:
    Segments(const kernels::AttentionSegment* segments, int num_segments)
        : segments_(segments, segments + num_segments) {
      for (const kernels::AttentionSegment& s : segments_) {
        const int64_t num_tokens = s.position + s.num_rows;
        tables_.push_back(
            Copy(s.page_table, (num_tokens + kernels::kPageSize - 1) / kernels::kPageSize));
      }
    }
    const kernels::AttentionSegment* data() {
      for (size_t i = 0; i < tables_.size(); ++i) segments_[i].page_table = tables_[i].data();
      return segments_.data();
    }
    /// Behind the last row of the call's arrays: rows before the first are another plan's.
    int64_t end_row() const {
      int64_t end = 0;
      for (const kernels::AttentionSegment& s : segments_) {
        end = std::max(end, int64_t{s.row_begin} + s.num_rows);
      }
      return end;
    }

   private:
    std::vector<kernels::AttentionSegment> segments_;
    std::vector<std::vector<int32_t>> tables_;
  };

  template <typename T>
  static std::vector<T> Copy(const T* data, int64_t count) {
    return data == nullptr ? std::vector<T>() : std::vector<T>(data, data + count);
  }

  /// An operator on the segments of `holder`: its parameters themselves, or a member of these.
  template <typename Params, typename Holder, typename... Member>
  void DoFor(void (kernels::Backend::*op)(const Params&), const Params& p, const Holder& holder,
             Member... member) {
    Segments segments(holder.segments, holder.num_segments);
    Do([this, op, p = p, segments, member...]() mutable {
      if constexpr (sizeof...(Member) == 0) {
        p.segments = segments.data();
      } else {
        (((p.*member).segments = segments.data()), ...);
      }
      (inner().*op)(p);
    });
  }

  void Do(std::function<void()> work) {
    work_.push_back(std::move(work));
    for (uint32_t i = random_() % 64 == 0 ? random_() % 40 : 0; i > 0 && !work_.empty(); --i) {
      DoNext();
    }
  }
  void DoNext() {
    const std::function<void()> next = std::move(work_.front());
    work_.pop_front();
    ++num_done_;
    next();
  }
  void Finish() {
    while (!work_.empty()) DoNext();
  }

  Counts* counts_;
  std::mt19937 random_;
  std::deque<std::function<void()>> work_;
  int64_t num_done_ = 0, latest_mark_ = 0, waited_ = 0;
};

}  // namespace nsa::engine

#endif  // NSA_TESTS_ENGINE_LATE_BACKEND_H_
