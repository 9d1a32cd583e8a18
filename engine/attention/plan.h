#ifndef NSA_ENGINE_ATTENTION_PLAN_H_
#define NSA_ENGINE_ATTENTION_PLAN_H_

#include <cstdint>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/attention/attention_times.h"
#include "engine/attention/page_ages.h"
#include "engine/attention/spec.h"
#include "engine/attention/window_perceptron.h"
#include "kernels/array.h"
#include "kernels/backend.h"

namespace nsa::engine {

/// Sizes that a plan and its workspace need to know of a model.
struct AttentionShape {
  int num_q_heads = 0;
  int num_kv_heads = 0;
  int head_dim_k = 0;
  int head_dim_v = 0;
  float scale = 1;
};

/// Where the branches of one layer leave their results; reused from layer to layer and step to
/// step.
class AttentionWorkspace {
 public:
  /// For up to `max_rows` rows and `max_selected_blocks` per (row, KV head).
  AttentionWorkspace(kernels::Backend& backend, const AttentionShape& shape, int64_t max_rows,
                     int32_t max_selected_blocks);

  kernels::BranchOutput branch(int index);
  int32_t* selected() { return selected_.data(); }
  int32_t* num_selected() { return num_selected_.data(); }
  int32_t max_selected_blocks() const { return max_selected_blocks_; }
  /// Room for the compressed branch's scores of rows [0, num_rows) that see `num_pages` pages,
  /// until the next call; none for many rows, whose scores are cheaper to make again than to keep.
  kernels::CmpScores cmp_scores(kernels::Backend& backend, int64_t num_rows, int64_t num_pages,
                                int compression_stride);
  WindowCompressor& compressor() { return compressor_; }

  /// Adds what stands in selected() for the query's rows.
  void CountAges(kernels::Backend& backend, const kernels::AttentionQuery& query,
                 int sel_block_size);
  /// What CountAges added since the last call. Waits for the backend where that was called at all,
  /// and its result was not asked for.
  PageAges TakeAges(kernels::Backend& backend);
  /// Asks for it (Backend::ReadLater), to be given to SetAges when it is there; false: there is
  /// nothing new.
  bool ReadAgesLater(kernels::Backend& backend, PageAges* target);
  void SetAges(const PageAges& ages) { ages_read_ = ages; }

  /// Of AttentionPlan::Run, since the last call.
  AttentionTimes TakeTimes() { return std::exchange(times_, {}); }
  /// Null: nothing is measured.
  AttentionTimes* times() { return measures_times_ ? &times_ : nullptr; }

 private:
  int32_t max_selected_blocks_;
  int num_q_heads_;
  kernels::Array<float> cmp_scores_;                  // grows with the context
  kernels::Array<float> out_[kernels::kMaxBranches];  // [max_rows, num_q_heads, head_dim_v]
  kernels::Array<float> lse_[kernels::kMaxBranches];  // [max_rows, num_q_heads]
  kernels::Array<int32_t> selected_;      // [max_rows, num_kv_heads, max_selected_blocks]
  kernels::Array<int32_t> num_selected_;  // [max_rows, num_kv_heads]
  kernels::Array<int64_t> ages_;          // [kNumPageAges], of all steps
  PageAges ages_read_{};                  // as they were lately
  PageAges ages_taken_{};                 // of those that TakeAges has told
  bool has_new_ages_ = false;
  AttentionTimes times_;
  bool measures_times_;
  WindowCompressor compressor_;
};

/// Branches in the order of workspaces, of gates (algorithm.md §2, fla), and of K and V of their
/// own.
enum AttentionBranch { kCmpBranch, kSelBranch, kWinBranch };

/// K and V of the rows of a batch, and the cache that they go to.
struct BranchKv {
  const float* k = nullptr;  // [rows of the batch, num_kv_heads, head_dim_k], not rotated
  const float* v = nullptr;  // [rows of the batch, num_kv_heads, head_dim_v]
  kernels::PagedKv kv;
};

/// Told what rows have selected before they read it. Lists as in ScoreTopkParams, in the backend's
/// memory; emptied ones read nothing.
class SelectionObserver {
 public:
  virtual ~SelectionObserver() = default;
  virtual void OnSelected(const kernels::ScoreTopkParams& chosen) = 0;
};

/// One layer's attention over the rows [row_begin, row_begin + num_rows) of a batch.
struct AttentionInputs {
  kernels::AttentionQuery query;  // without kv; segments' row_begin count from the batch's first
  BranchKv branch_kv[kernels::kMaxBranches];  // by AttentionBranch; the first alone where the spec
                                              // has no branch_kv
  int64_t k_stride = 0;                       // floats from a row to the next
  int64_t v_stride = 0;
  const WindowPerceptron* compress_k = nullptr;  // where the compression is learned
  const WindowPerceptron* compress_v = nullptr;
  const int32_t* row_num_selected_blocks = nullptr;  // [rows of the batch]
  const float* gate_logits = nullptr;  // [rows of the batch, num_q_heads, branches] or null
  int64_t gate_stride = 0;
  int64_t row_begin = 0;
  int64_t num_rows = 0;
  float* y = nullptr;  // [rows of the batch, num_q_heads · head_dim_v], dense
  SelectionObserver* observer = nullptr;
};

/// Tokens that a query reads, by branch; compressed rows count as one each.
struct AttentionReads {
  int64_t cmp = 0;
  int64_t slc = 0;
  int64_t win = 0;
};

/// An AttentionSpec resolved into operators with their parameters. Immutable: any thread may read
/// it; Run belongs to the thread that owns backend and workspace.
class AttentionPlan {
 public:
  static absl::StatusOr<AttentionPlan> Resolve(const AttentionSpec& spec,
                                               const AttentionShape& shape);

  const AttentionSpec& spec() const { return spec_; }
  int num_branches() const { return num_branches_; }

  /// Stores K and V of the new rows, closes compression windows or clusters full pages, and
  /// computes y.
  void Run(kernels::Backend& backend, const AttentionInputs& inputs,
           AttentionWorkspace& workspace) const;

  /// Blocks that the query at `position` reads at most, where it asked for n.
  int32_t NumSelected(int64_t position, int32_t n) const;

  /// What the query at `position` reads with n = `num_selected_blocks`, per KV head.
  AttentionReads CountReads(int64_t position, int32_t num_selected_blocks) const;

 private:
  struct StepRunner;
  struct BranchTime;

  /// Windows go through the layer's perceptrons.
  struct CompressWindows {
    int length;
    int stride;
  };
  using Step =
      std::variant<CompressWindows, kernels::CmpPoolParams, kernels::CmpClusterParams,
                   kernels::SparseAttnParams, kernels::WinAttnParams, kernels::FullAttnParams>;

  void AddCompression();
  void AddBranches();
  void WriteKv(kernels::Backend& backend, const AttentionInputs& inputs) const;
  kernels::RopeView RopeOf(AttentionBranch branch, const kernels::RopeView& rope) const;
  int64_t NumScoredRows(int64_t position, int64_t selectable) const;

  AttentionSpec spec_;
  AttentionShape shape_;
  int num_branches_ = 0;
  std::vector<Step> steps_;  // parameters without pointers; Run fills in copies
};

}  // namespace nsa::engine

#endif  // NSA_ENGINE_ATTENTION_PLAN_H_
