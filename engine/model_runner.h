#ifndef NSA_ENGINE_MODEL_RUNNER_H_
#define NSA_ENGINE_MODEL_RUNNER_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/attention/plan.h"
#include "engine/attention/rope_table.h"
#include "engine/batch.h"
#include "engine/gated_layer.h"
#include "engine/kv_cache.h"
#include "engine/models/model.h"
#include "kernels/array.h"
#include "kernels/backend.h"

namespace nsa::engine {

/// Runs one model over batches: embedding, layers, logits. Holds the activations, sized at the
/// start for the largest batch. One thread (the engine's); `model`, `backend` and `cache` outlive
/// it.
class ModelRunner {
 public:
  struct Options {
    AttentionSpec spec;
    int64_t max_rows = 512;   // of a batch
    int64_t max_context = 0;  // tokens: how far rotations must reach
    int64_t kept_rows = 0;    // of entries that leave a step and go on in a later one
    kernels::AttentionPrecision precision = kernels::AttentionPrecision::kFloat32;
  };

  /// Told the logits [vocabulary_size] of row `row` of entry `entry` (row counts within the entry).
  /// They are in the backend's memory, may be changed, and are valid during the call.
  using LogitsConsumer = std::function<void(size_t entry, int64_t row, float* logits)>;

  /// Draws tokens from a step's logits.
  class TokenChooser {
   public:
    virtual ~TokenChooser() = default;
    /// What the token behind row `row` of an entry is drawn by, but for logits and token, among all
    /// of the vocabulary or a first part of it; lists
    /// stay until Launch returns. False: it gives none. `logits` [vocabulary_size] are in the
    /// backend's memory. The token will be at `place` among the step's.
    virtual bool Ask(size_t entry, int64_t row, int32_t place, const float* logits,
                     kernels::SampleParams& params) = 0;
    /// The token, in the order in which they were asked for.
    virtual void Take(size_t entry, int64_t row, int32_t token_id) = 0;
  };
  /// Steps that may be launched and not collected.
  static constexpr int64_t kMaxSteps = 2;

  static absl::StatusOr<std::unique_ptr<ModelRunner>> Create(const Model* model,
                                                             kernels::Backend* backend,
                                                             KvCache* cache,
                                                             const Options& options);

  /// Bytes of activations and tables that a runner with these options takes.
  static int64_t WorkspaceBytes(const ModelConfig& config, const Options& options);

  /// Writes the batch's K and V into its pages and hands out the logits asked for, in entry order.
  /// Entries may leave on the way (Batch::gate), and those that did go on where they were: a layer
  /// runs the rows that have come so far.
  void Run(const Batch& batch, const LogitsConsumer& consumer);

  /// The same, and draws tokens. An asynchronous backend is asked for the whole step, all tokens at
  /// once; Collect waits for the oldest step and hands its tokens out. Others draw one by one, and
  /// hand out each before the next is asked for; Collect has nothing to do.
  void Launch(const Batch& batch, TokenChooser& chooser);
  void Collect(TokenChooser& chooser);

  const AttentionPlan& plan() const { return plan_; }
  const AttentionPlan& full_plan() const { return full_plan_; }
  /// How old the pages were that attention selected, since the last call.
  PageAges TakePageAges() { return workspace_.TakeAges(*backend_); }
  /// Where attention's time went, since the last call.
  AttentionTimes TakeAttentionTimes() { return workspace_.TakeTimes(); }
  int32_t max_selected_blocks() const { return workspace_.max_selected_blocks(); }

 private:
  /// Consecutive rows of a batch that run under one plan.
  struct PlanRows {
    const AttentionPlan* plan;
    int64_t row_begin = 0;
    int64_t num_rows = 0;
    std::vector<kernels::AttentionSegment> segments;
    std::vector<size_t> entries;  // [segments]
  };

  /// What a layer does of its own.
  struct LayerState {
    std::optional<AttentionPlan> window_plan;  // for layers with a window, whatever is asked
    AttentionShape shape;                      // the scale is this layer's
    const RopeTable* rope = nullptr;           // in ropes_
  };

  ModelRunner(const Model* model, kernels::Backend* backend, KvCache* cache, AttentionPlan plan,
              AttentionPlan full_plan, const Options& options);
  absl::Status PrepareLayers(const Options& options);

  void LayOut(const Batch& batch);
  /// Before a layer: rows of entries that have left go, those of entries that begin here come.
  void Regroup(const Batch& batch, int layer);
  void RunLayer(int index);
  void RunGates(const DecoderLayer& layer);
  void RunAttention(int index);
  void Leave(size_t entry, int64_t row_begin, int32_t kept_row);
  AttentionInputs InputsOf(int index, const PlanRows& rows);
  void NormaliseHeads(const DecoderLayer& layer);
  void Norm(const float* x, const kernels::Array<float>& weight, float* y, bool accumulate = false);
  void AddToResidual(const float* x, int64_t x_stride, const kernels::PackedMatrix& w,
                     const kernels::Array<float>& bias, const kernels::Array<float>& norm);
  struct LogitsRow {
    size_t entry;
    int64_t row;  // in the entry
  };
  /// What an asynchronous backend was asked for.
  struct Step {
    std::vector<LogitsRow> rows;  // that tokens were asked for, by place
    kernels::Memory read;         // of the host: ages, then tokens by place
    bool has_ages = false;
    int64_t mark = 0;

    PageAges* ages() const { return reinterpret_cast<PageAges*>(read.data()); }
    int32_t* tokens() const { return reinterpret_cast<int32_t*>(read.data() + sizeof(PageAges)); }
  };

  void RunLayers(const Batch& batch);
  /// Calls on_rows(rows), a vector of LogitsRow, for up to kLogitRows at a time, whose logits are
  /// in logits_. (No std::function: it would take memory in each step.)
  template <typename OnRows>
  void EmitLogits(const Batch& batch, const OnRows& on_rows);
  void DrawTokens(const std::vector<LogitsRow>& rows, Step& step, TokenChooser& chooser);
  void Product(const float* x, int64_t x_stride, const kernels::PackedMatrix& w, float* y,
               int64_t y_stride, int64_t num_rows, const kernels::Array<float>& bias = {});

  const Model* model_;
  kernels::Backend* backend_;
  KvCache* cache_;
  AttentionPlan plan_;       // the server's
  AttentionPlan full_plan_;  // for requests that ask for full attention
  kernels::AttentionPrecision precision_;
  std::vector<LayerState> layers_;
  std::vector<RopeTable> ropes_;
  AttentionWorkspace workspace_;

  // This step's rows, sequences with full attention first.
  int64_t num_rows_ = 0;
  std::vector<int32_t> ids_;              // [max_rows]
  std::vector<int32_t> num_selected_;     // [max_rows]: n of each row
  std::vector<bool> is_in_;               // [entries]: its rows are among these
  std::vector<int64_t> entry_row_begin_;  // [entries]
  PlanRows plan_rows_[2];
  const Batch* batch_ = nullptr;
  GatedLayer gated_layer_;
  std::vector<size_t> left_;         // entries that have left in this layer
  int64_t num_left_rows_ = 0;        // theirs
  std::vector<float> kept_hidden_;   // [kept_rows, hidden_size]
  std::vector<float> moved_hidden_;  // rows on the way to other places

  kernels::Array<float> hidden_;     // [max_rows, hidden_size]
  kernels::Array<float> normed_;     // [max_rows, hidden_size]
  kernels::Array<float> qkv_;        // [max_rows, q + (k + v) · num_kv]
  kernels::Array<float> attention_;  // [max_rows, num_q_heads · head_dim_v]
  kernels::Array<float> gates_;  // [max_rows, num_q_heads · branches], where the model has gates
  kernels::Array<float> gate_hidden_;   // [max_rows, gate_hidden_size]
  kernels::Array<float> gate_up_;       // [max_rows, 2 · ffn_size]
  kernels::Array<float> logits_;        // [kLogitRows, vocabulary_size]
  std::vector<LogitsRow> logits_rows_;  // of which `normed_` holds the final norm

  kernels::Array<int32_t> tokens_;                    // [max_rows], of the latest step, by place
  std::vector<int32_t> places_;                       // [max_rows], of tokens in tokens_, or −1
  std::vector<kernels::SampleParams> sample_params_;  // of one call
  Step steps_[kMaxSteps];                             // that were launched, in turns
  int64_t num_launched_ = 0;
  int64_t num_collected_ = 0;
};

}  // namespace nsa::engine

#endif  // NSA_ENGINE_MODEL_RUNNER_H_
