#include "engine/attention/plan.h"

#include <algorithm>
#include <cstddef>
#include <variant>

#include "absl/status/status.h"

namespace nsa::engine {
namespace {

// Branch indices in the workspace; gates stand in the same order (algorithm.md §2, fla).
enum Branch { kCmp, kSel, kWin };

/// Completes one step's parameters with this call's pointers and runs it.
struct StepRunner {
  kernels::Backend& backend;
  const AttentionInputs& inputs;
  AttentionWorkspace& workspace;
  const AttentionShape& shape;

  void operator()(kernels::CmpPoolParams params) const {
    params.segments = inputs.query.segments;
    params.num_segments = inputs.query.num_segments;
    params.kv = inputs.query.kv;
    params.rope = inputs.query.rope;
    backend.CmpPool(params);
  }
  void operator()(kernels::CmpClusterParams params) const {
    params.segments = inputs.query.segments;
    params.num_segments = inputs.query.num_segments;
    params.kv = inputs.query.kv;
    backend.CmpCluster(params);
  }
  void operator()(kernels::CmpAttnParams params) const {
    params.query = inputs.query;
    params.result = workspace.branch(kCmp);
    params.scores = KeptScores(params.stride);
    backend.CmpAttn(params);
  }
  void operator()(kernels::ScoreTopkParams params) const {
    params.query = inputs.query;
    // A plan with a compressed branch has its log-sum-exp already, and for few rows its scores.
    if (has_cmp_branch) {
      params.cmp_lse = workspace.branch(kCmp).lse;
      params.cmp_scores = KeptScores(params.stride);
    }
    params.num_selected_blocks = workspace.max_selected_blocks();
    params.row_num_selected_blocks = inputs.row_num_selected_blocks;
    params.selected = workspace.selected();
    params.num_selected = workspace.num_selected();
    backend.ScoreTopk(params);
  }
  void operator()(kernels::SelAttnParams params) const {
    params.query = inputs.query;
    params.num_selected_blocks = workspace.max_selected_blocks();
    params.selected = workspace.selected();
    params.num_selected = workspace.num_selected();
    params.result = workspace.branch(kSel);
    if (params.reads_window) params.result.out = inputs.y;
    backend.SelAttn(params);
  }
  void operator()(kernels::WinAttnParams params) const {
    params.query = inputs.query;
    params.result = workspace.branch(kWin);
    if (window_alone) params.result.out = inputs.y;
    backend.WinAttn(params);
  }
  void operator()(kernels::FullAttnParams params) const {
    params.query = inputs.query;
    params.result = {.out = inputs.y, .lse = workspace.branch(kWin).lse};
    backend.FullAttn(params);
  }
  void operator()(kernels::MergeParams params) const {
    const int first = kernels::kMaxBranches - params.num_branches;  // without kCmp: sel and win
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
    backend.Merge(params);
  }

  kernels::CmpScores KeptScores(int compression_stride) const {
    int64_t num_pages = 0;
    for (int s = 0; s < inputs.query.num_segments; ++s) {
      const kernels::AttentionSegment& segment = inputs.query.segments[s];
      const int64_t end = segment.position + segment.num_rows;
      num_pages = std::max(num_pages, (end + kernels::kPageSize - 1) / kernels::kPageSize);
    }
    return workspace.cmp_scores(inputs.row_begin + inputs.num_rows, num_pages, compression_stride);
  }

  bool has_cmp_branch = false;
  bool window_alone = false;
};

kernels::ScoreTopkParams ScoreParams(const AttentionSpec& spec) {
  kernels::ScoreTopkParams params;
  params.length = spec.compression_length;
  params.stride = spec.compression_stride;
  if (spec.compression == Compression::kPageClusters) params.num_clusters = spec.num_clusters;
  params.sel_block_size = spec.sel_block_size;
  params.max_page_distance = spec.max_page_distance;
  params.decay_page_distance = spec.decay_score_page_distance;
  params.block_score = spec.block_score;
  params.group_reduction = spec.group_reduction;
  params.num_initial_blocks = spec.num_initial_blocks;
  params.num_local_blocks = spec.num_local_blocks;
  params.window_size = spec.disjoint_window ? spec.window_size : 0;
  return params;
}

}  // namespace

AttentionWorkspace::AttentionWorkspace(const AttentionShape& shape, int64_t max_rows,
                                       int32_t max_selected_blocks)
    : max_selected_blocks_(max_selected_blocks), num_q_heads_(shape.num_q_heads) {
  const size_t heads = static_cast<size_t>(max_rows * shape.num_q_heads);
  for (int b = 0; b < kernels::kMaxBranches; ++b) {
    out_[b].resize(heads * static_cast<size_t>(shape.head_dim_v));
    lse_[b].resize(heads);
  }
  num_selected_.resize(static_cast<size_t>(max_rows * shape.num_kv_heads));
  selected_.resize(num_selected_.size() * static_cast<size_t>(max_selected_blocks));
}

kernels::BranchOutput AttentionWorkspace::branch(int index) {
  return {.out = out_[index].data(), .lse = lse_[index].data()};
}

kernels::CmpScores AttentionWorkspace::cmp_scores(int64_t num_rows, int64_t num_pages,
                                                  int compression_stride) {
  constexpr int64_t kMaxRows = 16;
  if (num_rows > kMaxRows) return {};
  const int64_t stride = kernels::CmpScoreStride(num_pages, compression_stride);
  const auto size = static_cast<size_t>(num_rows * num_q_heads_ * stride);
  // Doubled, so that a growing context seldom takes memory.
  if (cmp_scores_.size() < size) cmp_scores_.resize(2 * size);
  return {.data = cmp_scores_.data(), .stride = stride};
}

int64_t AttentionWorkspace::num_bytes() const {
  size_t floats = selected_.size() + num_selected_.size() + cmp_scores_.size();
  for (int b = 0; b < kernels::kMaxBranches; ++b) floats += out_[b].size() + lse_[b].size();
  return static_cast<int64_t>(floats * sizeof(float));
}

void AttentionWorkspace::CountAges(const kernels::AttentionQuery& query, int sel_block_size) {
  const int num_kv_heads = query.kv.num_kv_heads;
  for (int s = 0; s < query.num_segments; ++s) {
    const kernels::AttentionSegment& segment = query.segments[s];
    for (int32_t i = 0; i < segment.num_rows; ++i) {
      const int64_t page = (segment.position + i) / kernels::kPageSize;
      const int64_t first = (int64_t{segment.row_begin} + i) * num_kv_heads;
      for (int64_t list = first; list < first + num_kv_heads; ++list) {
        const int32_t* blocks = selected_.data() + list * max_selected_blocks_;
        for (int32_t b = 0; b < num_selected_[static_cast<size_t>(list)]; ++b) {
          ++ages_[PageAge(page - int64_t{blocks[b]} * sel_block_size / kernels::kPageSize)];
        }
      }
    }
  }
}

absl::StatusOr<AttentionPlan> AttentionPlan::Resolve(const AttentionSpec& spec,
                                                     const AttentionShape& shape) {
  if (absl::Status status = Validate(spec); !status.ok()) return status;
  AttentionPlan plan;
  plan.spec_ = spec;
  plan.shape_ = shape;
  if (!spec.sparse) {
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
  if (spec.compression == Compression::kPageClusters) {
    kernels::CmpClusterParams cluster;
    cluster.num_clusters = spec.num_clusters;
    plan.steps_.push_back(cluster);
  } else {
    kernels::CmpPoolParams pool;
    pool.length = spec.compression_length;
    pool.stride = spec.compression_stride;
    pool.pooled_keys = spec.pooled_keys;
    plan.steps_.push_back(pool);
  }
  if (spec.compressed_values) {
    kernels::CmpAttnParams cmp;
    cmp.length = spec.compression_length;
    cmp.stride = spec.compression_stride;
    cmp.max_page_distance = spec.max_page_distance;
    plan.steps_.push_back(cmp);
  }
  plan.steps_.push_back(ScoreParams(spec));
  kernels::SelAttnParams sel;
  sel.sel_block_size = spec.sel_block_size;
  sel.max_page_distance = spec.max_page_distance;
  sel.window_size = spec.disjoint_window ? spec.window_size : 0;
  // One softmax over disjoint parts is one pass over both.
  sel.reads_window = spec.disjoint_window && spec.combination == Combination::kJoinedSoftmax;
  plan.steps_.push_back(sel);
  if (sel.reads_window) {
    plan.num_branches_ = 1;
    return plan;
  }
  kernels::WinAttnParams win;
  win.window_size = spec.window_size;
  win.page_aligned = spec.disjoint_window;
  plan.steps_.push_back(win);
  kernels::MergeParams merge;
  merge.num_branches = plan.num_branches_ = spec.compressed_values ? 3 : 2;
  plan.steps_.push_back(merge);
  return plan;
}

void AttentionPlan::Run(kernels::Backend& backend, const AttentionInputs& inputs,
                        AttentionWorkspace& workspace) const {
  kernels::RopeKvWriteParams write;
  write.k = inputs.k;
  write.k_stride = inputs.k_stride;
  write.v = inputs.v;
  write.v_stride = inputs.v_stride;
  write.segments = inputs.query.segments;
  write.num_segments = inputs.query.num_segments;
  write.kv = inputs.query.kv;
  write.rope = inputs.query.rope;
  backend.RopeKvWrite(write);
  const StepRunner runner{.backend = backend,
                          .inputs = inputs,
                          .workspace = workspace,
                          .shape = shape_,
                          .has_cmp_branch = spec_.compressed_values,
                          .window_alone = !spec_.sparse};
  for (const Step& step : steps_) std::visit(runner, step);
  if (spec_.sparse) workspace.CountAges(inputs.query, spec_.sel_block_size);
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
  reads.win = visible - window_begin;
  const int64_t selectable = spec_.disjoint_window ? window_begin : visible;
  const int64_t chosen = int64_t{num_selected_blocks} * spec_.sel_block_size;
  reads.slc = std::min(selectable, chosen);
  // Nothing is scored where all candidates fit.
  if (spec_.compressed_values || selectable > chosen) {
    reads.cmp = NumScoredRows(position, selectable);
  }
  return reads;
}

}  // namespace nsa::engine
