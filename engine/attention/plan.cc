#include "engine/attention/plan.h"

#include <algorithm>
#include <cstddef>
#include <functional>
#include <variant>

#include "absl/status/status.h"
#include "absl/time/clock.h"

namespace nsa::engine {

/// Completes one step's parameters with this call's pointers and runs it.
struct AttentionPlan::StepRunner {
  const AttentionPlan& plan;
  kernels::Backend& backend;
  const AttentionInputs& inputs;
  AttentionWorkspace& workspace;

  void operator()(const AttentionPlan::CompressWindows& step) const {
    const kernels::AttentionQuery query = QueryOf(kCmpBranch);
    workspace.compressor().Run(backend,
                               {.segments = query.segments,
                                .num_segments = query.num_segments,
                                .kv = query.kv,
                                .rope = query.rope,
                                .length = step.length,
                                .stride = step.stride},
                               *inputs.compress_k, *inputs.compress_v);
  }
  void operator()(kernels::CmpPoolParams params) const {
    const kernels::AttentionQuery query = QueryOf(kCmpBranch);
    params.segments = query.segments;
    params.num_segments = query.num_segments;
    params.kv = query.kv;
    params.rope = query.rope;
    backend.CmpPool(params);
  }
  void operator()(kernels::CmpClusterParams params) const {
    const kernels::AttentionQuery query = QueryOf(kCmpBranch);
    params.segments = query.segments;
    params.num_segments = query.num_segments;
    params.kv = query.kv;
    backend.CmpCluster(params);
  }
  void operator()(kernels::SparseAttnParams params) const {
    if (params.cmp.has_value()) {
      params.cmp->query = QueryOf(kCmpBranch);
      params.cmp->result = workspace.branch(kCmpBranch);
      params.cmp->scores = KeptScores(params.cmp->stride);
      // Its log-sum-exp and, for few rows, its scores are what choosing begins with.
      params.score.cmp_lse = params.cmp->result.lse;
      params.score.cmp_scores = params.cmp->scores;
    }
    params.score.query = QueryOf(kCmpBranch);
    params.score.num_selected_blocks = workspace.max_selected_blocks();
    params.score.row_num_selected_blocks = inputs.row_num_selected_blocks;
    params.score.selected = workspace.selected();
    params.score.num_selected = workspace.num_selected();
    params.sel.query = QueryOf(kSelBranch);
    params.sel.num_selected_blocks = workspace.max_selected_blocks();
    params.sel.selected = workspace.selected();
    params.sel.num_selected = workspace.num_selected();
    params.sel.result = ResultOf(kSelBranch);
    if (params.win.has_value()) {
      params.win->query = QueryOf(kWinBranch);
      params.win->result = ResultOf(kWinBranch);
    }
    if (params.merge.has_value()) FillMerge(*params.merge);
    const std::function<void()> on_chosen = [&] { inputs.observer->OnSelected(params.score); };
    if (inputs.observer != nullptr) params.on_chosen = &on_chosen;
    kernels::SparseAttnTimes taken;
    if (workspace.times() != nullptr) params.times = &taken;
    backend.SparseAttn(params);
    if (params.times == nullptr) return;
    AttentionTimes& times = *workspace.times();
    times.cmp += absl::Seconds(taken.cmp);
    times.slc += absl::Seconds(taken.slc);
    times.win += absl::Seconds(taken.win);
    times.merge += absl::Seconds(taken.merge);
  }
  void operator()(kernels::WinAttnParams params) const {
    params.query = QueryOf(kWinBranch);
    params.result = ResultOf(kWinBranch);
    backend.WinAttn(params);
  }
  void operator()(kernels::FullAttnParams params) const {
    params.query = QueryOf(kWinBranch);
    params.result = ResultOf(kWinBranch);
    backend.FullAttn(params);
  }

  void FillMerge(kernels::MergeParams& params) const {
    const int first = kernels::kMaxBranches - params.num_branches;  // without kCmp: sel and win
    const AttentionShape& shape = plan.shape_;
    const int64_t row_floats = int64_t{shape.num_q_heads} * shape.head_dim_v;
    for (int b = 0; b < params.num_branches; ++b) {
      const kernels::BranchOutput branch = workspace.branch(first + b);
      params.branches[b] = {.out = branch.out + inputs.row_begin * row_floats,
                            .lse = branch.lse + inputs.row_begin * shape.num_q_heads};
    }
    if (inputs.gate_logits != nullptr) {
      params.gate_logits = inputs.gate_logits + inputs.row_begin * inputs.gate_stride;
      params.gate_stride = inputs.gate_stride;
    }
    params.num_rows = inputs.num_rows;
    params.num_q_heads = shape.num_q_heads;
    params.head_dim_v = shape.head_dim_v;
    params.y = inputs.y + inputs.row_begin * row_floats;
    params.y_stride = row_floats;
  }

  kernels::CmpScores KeptScores(int compression_stride) const {
    int64_t num_pages = 0;
    for (int s = 0; s < inputs.query.num_segments; ++s) {
      const kernels::AttentionSegment& segment = inputs.query.segments[s];
      const int64_t end = segment.position + segment.num_rows;
      num_pages = std::max(num_pages, (end + kernels::kPageSize - 1) / kernels::kPageSize);
    }
    return workspace.cmp_scores(backend, inputs.row_begin + inputs.num_rows, num_pages,
                                compression_stride);
  }

  kernels::AttentionQuery QueryOf(AttentionBranch branch) const {
    kernels::AttentionQuery query = inputs.query;
    query.kv = inputs.branch_kv[plan.spec_.branch_kv ? branch : 0].kv;
    query.rope = plan.RopeOf(branch, inputs.query.rope);
    return query;
  }

  /// A branch that is the only one leaves its output where the layer's goes.
  kernels::BranchOutput ResultOf(AttentionBranch branch) const {
    kernels::BranchOutput result = workspace.branch(branch);
    if (plan.num_branches_ == 1) result.out = inputs.y;
    return result;
  }
};

/// Where a step's time counts; null: the step counts its own.
struct AttentionPlan::BranchTime {
  AttentionTimes& times;

  template <typename Compression>
  absl::Duration* operator()(const Compression& /*step*/) const {
    return &times.cmp;
  }
  absl::Duration* operator()(const kernels::SparseAttnParams& /*step*/) const { return nullptr; }
  absl::Duration* operator()(const kernels::WinAttnParams& /*step*/) const { return &times.win; }
  absl::Duration* operator()(const kernels::FullAttnParams& /*step*/) const { return &times.win; }
};

namespace {

kernels::ScoreTopkParams ScoreParams(const AttentionSpec& spec) {
  kernels::ScoreTopkParams params;
  params.length = spec.compression_length;
  params.stride = spec.compression_stride;
  if (spec.compression == Compression::kPageClusters) params.num_clusters = spec.num_clusters;
  params.sel_block_size = spec.sel_block_size;
  params.max_page_distance = spec.max_page_distance;
  params.decay_page_distance = spec.decay_score_page_distance;
  params.lse_windows = spec.lse_windows;
  params.block_score = spec.block_score;
  params.group_reduction = spec.group_reduction;
  params.num_initial_blocks = spec.num_initial_blocks;
  params.num_local_blocks = spec.num_local_blocks;
  params.window_size = spec.disjoint_window ? spec.window_size : 0;
  return params;
}

}  // namespace

AttentionWorkspace::AttentionWorkspace(kernels::Backend& backend, const AttentionShape& shape,
                                       int64_t max_rows, int32_t max_selected_blocks)
    : max_selected_blocks_(max_selected_blocks),
      num_q_heads_(shape.num_q_heads),
      selected_(backend, max_rows * shape.num_kv_heads * max_selected_blocks),
      num_selected_(backend, max_rows * shape.num_kv_heads),
      ages_(backend, kernels::kNumPageAges),
      measures_times_(!backend.free_bytes().has_value()) {
  const int64_t heads = max_rows * shape.num_q_heads;
  for (int b = 0; b < kernels::kMaxBranches; ++b) {
    out_[b] = kernels::Array<float>(backend, heads * shape.head_dim_v);
    lse_[b] = kernels::Array<float>(backend, heads);
  }
}

kernels::BranchOutput AttentionWorkspace::branch(int index) {
  return {.out = out_[index].data(), .lse = lse_[index].data()};
}

kernels::CmpScores AttentionWorkspace::cmp_scores(kernels::Backend& backend, int64_t num_rows,
                                                  int64_t num_pages, int compression_stride) {
  constexpr int64_t kMaxRows = 16;
  if (num_rows > kMaxRows) return {};
  const int64_t stride = kernels::CmpScoreStride(num_pages, compression_stride);
  const int64_t size = num_rows * num_q_heads_ * stride;
  // Doubled, so that a growing context seldom takes memory.
  if (cmp_scores_.size() < size) cmp_scores_ = kernels::Array<float>(backend, 2 * size);
  return {.data = cmp_scores_.data(), .stride = stride};
}

void AttentionWorkspace::CountAges(kernels::Backend& backend, const kernels::AttentionQuery& query,
                                   int sel_block_size) {
  has_new_ages_ = true;
  backend.PageAges({.segments = query.segments,
                    .num_segments = query.num_segments,
                    .num_kv_heads = query.kv.num_kv_heads,
                    .sel_block_size = sel_block_size,
                    .num_selected_blocks = max_selected_blocks_,
                    .selected = selected_.data(),
                    .num_selected = num_selected_.data(),
                    .ages = ages_.data()});
}

PageAges AttentionWorkspace::TakeAges(kernels::Backend& backend) {
  // They are not cleared: that would be a second wait.
  if (std::exchange(has_new_ages_, false)) {
    backend.Read(ages_read_.data(), ages_.data(), ages_.num_bytes());
  }
  PageAges ages{};
  for (size_t i = 0; i < ages.size(); ++i) ages[i] = ages_read_[i] - ages_taken_[i];
  ages_taken_ = ages_read_;
  return ages;
}

bool AttentionWorkspace::ReadAgesLater(kernels::Backend& backend, PageAges* target) {
  if (!std::exchange(has_new_ages_, false)) return false;
  backend.ReadLater(target->data(), ages_.data(), ages_.num_bytes());
  return true;
}

absl::StatusOr<AttentionPlan> AttentionPlan::Resolve(const AttentionSpec& spec,
                                                     const AttentionShape& shape) {
  if (absl::Status status = Validate(spec); !status.ok()) return status;
  AttentionPlan plan;
  plan.spec_ = spec;
  plan.shape_ = shape;
  if (spec.sparse) {
    plan.AddCompression();
    plan.AddBranches();
    return plan;
  }
  plan.num_branches_ = 1;
  if (spec.sliding_window == 0) {
    plan.steps_.push_back(kernels::FullAttnParams{});
  } else {
    kernels::WinAttnParams window;
    window.window_size = spec.sliding_window;
    plan.steps_.push_back(window);
  }
  return plan;
}

void AttentionPlan::AddCompression() {
  const int length = spec_.compression_length, stride = spec_.compression_stride;
  if (spec_.compression == Compression::kPageClusters) {
    kernels::CmpClusterParams cluster;
    cluster.num_clusters = spec_.num_clusters;
    steps_.push_back(cluster);
  } else if (spec_.compression == Compression::kLearned) {
    steps_.push_back(CompressWindows{.length = length, .stride = stride});
  } else {
    kernels::CmpPoolParams pool;
    pool.length = length;
    pool.stride = stride;
    pool.pooled_keys = spec_.pooled_keys;
    steps_.push_back(pool);
  }
}

void AttentionPlan::AddBranches() {
  kernels::SparseAttnParams step;
  if (spec_.compressed_values) {
    step.cmp.emplace();
    step.cmp->length = spec_.compression_length;
    step.cmp->stride = spec_.compression_stride;
    step.cmp->max_page_distance = spec_.max_page_distance;
  }
  step.score = ScoreParams(spec_);
  step.sel.sel_block_size = spec_.sel_block_size;
  step.sel.max_page_distance = spec_.max_page_distance;
  step.sel.window_size = spec_.disjoint_window ? spec_.window_size : 0;
  // One softmax over disjoint parts is one pass over both.
  step.sel.reads_window = spec_.disjoint_window && spec_.combination == Combination::kJoinedSoftmax;
  num_branches_ = 1;
  if (!step.sel.reads_window && spec_.combination != Combination::kSelectedAlone) {
    step.win.emplace();
    step.win->window_size = spec_.window_size;
    step.win->page_aligned = spec_.disjoint_window;
    step.merge.emplace();
    step.merge->num_branches = num_branches_ = spec_.compressed_values ? 3 : 2;
  }
  steps_.push_back(step);
}

kernels::RopeView AttentionPlan::RopeOf(AttentionBranch branch,
                                        const kernels::RopeView& rope) const {
  const bool is_rotated[] = {spec_.rope_cmp, spec_.rope_slc, spec_.rope_win};
  return is_rotated[branch] ? rope : kernels::RopeView();
}

void AttentionPlan::WriteKv(kernels::Backend& backend, const AttentionInputs& inputs) const {
  const int num_kv = spec_.branch_kv ? kernels::kMaxBranches : 1;
  for (int b = 0; b < num_kv; ++b) {
    kernels::RopeKvWriteParams write;
    write.k = inputs.branch_kv[b].k;
    write.k_stride = inputs.k_stride;
    write.v = inputs.branch_kv[b].v;
    write.v_stride = inputs.v_stride;
    write.segments = inputs.query.segments;
    write.num_segments = inputs.query.num_segments;
    write.kv = inputs.branch_kv[b].kv;
    write.rope = RopeOf(static_cast<AttentionBranch>(b), inputs.query.rope);
    // A perceptron reads keys as they are, and its rows are turned.
    if (b == kCmpBranch && spec_.compression == Compression::kLearned) write.rope = {};
    backend.RopeKvWrite(write);
  }
}

void AttentionPlan::Run(kernels::Backend& backend, const AttentionInputs& inputs,
                        AttentionWorkspace& workspace) const {
  WriteKv(backend, inputs);
  const StepRunner runner{
      .plan = *this, .backend = backend, .inputs = inputs, .workspace = workspace};
  AttentionTimes* const times = workspace.times();
  absl::Time began = times != nullptr ? absl::Now() : absl::InfinitePast();
  for (const Step& step : steps_) {
    std::visit(runner, step);
    if (times == nullptr) continue;
    const absl::Time ended = absl::Now();
    absl::Duration* const time = std::visit(BranchTime{*times}, step);
    if (time != nullptr) *time += ended - began;
    began = ended;
  }
  if (spec_.sparse) {
    workspace.CountAges(backend, runner.QueryOf(kSelBranch), spec_.sel_block_size);
  }
}

int32_t AttentionPlan::NumSelected(int64_t position, int32_t n) const {
  if (position + 1 >= spec_.dense_length) return n;
  return static_cast<int32_t>(position / spec_.sel_block_size) + 1;
}

int64_t AttentionPlan::NumScoredRows(int64_t position, int64_t selectable) const {
  if (spec_.compression == Compression::kPageClusters) {
    return selectable / kernels::kPageSize * spec_.num_clusters;
  }
  return kernels::NumVisibleWindows(position, spec_.compression_length, spec_.compression_stride);
}

AttentionReads AttentionPlan::CountReads(int64_t position, int32_t num_selected_blocks) const {
  const int64_t visible = position + 1;
  if (!spec_.sparse) {
    const int64_t window = spec_.sliding_window > 0 ? spec_.sliding_window : visible;
    return {.cmp = 0, .slc = 0, .win = std::min(visible, window)};
  }
  AttentionReads reads;
  const int64_t window_begin = spec_.disjoint_window
                                   ? kernels::PageAlignedWindowStart(position, spec_.window_size)
                                   : std::max<int64_t>(0, visible - spec_.window_size);
  reads.win = visible - window_begin;  // none with kSelectedAlone
  const int64_t selectable = spec_.disjoint_window ? window_begin : visible;
  const int64_t chosen = int64_t{NumSelected(position, num_selected_blocks)} * spec_.sel_block_size;
  reads.slc = std::min(selectable, chosen);
  // Nothing is scored where all candidates fit.
  if (spec_.compressed_values || selectable > chosen) {
    reads.cmp = NumScoredRows(position, selectable);
  }
  return reads;
}

}  // namespace nsa::engine
