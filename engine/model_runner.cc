#include "engine/model_runner.h"

#include <algorithm>
#include <cstring>
#include <functional>
#include <new>
#include <utility>

#include "absl/memory/memory.h"
#include "engine/log.h"

namespace nsa::engine {
namespace {

// Rows whose logits are computed at once. Bounds the logits' memory; results do not depend on it.
constexpr int64_t kLogitRows = 32;

/// Of a K with its V.
int64_t KvWidth(const AttentionShape& a) {
  return int64_t{a.num_kv_heads} * (a.head_dim_k + a.head_dim_v);
}

int64_t QkvWidth(const ModelConfig& config) {
  const AttentionShape& a = config.attention;
  return int64_t{a.num_q_heads} * a.head_dim_k + config.num_kv() * KvWidth(a);
}

/// Of the gates' logits; 0 where the branches are joined by softmax.
int64_t GatesWidth(const ModelConfig& config) {
  const bool gated = config.native_attention.has_value() &&
                     config.native_attention->combination == Combination::kGates;
  return gated ? int64_t{config.attention.num_q_heads} * kernels::kMaxBranches : 0;
}

int32_t WorkspaceBlocks(const AttentionSpec& spec, int64_t trained_context) {
  if (!spec.sparse) return 1;
  const int64_t dense = (spec.dense_length + spec.sel_block_size - 1) / spec.sel_block_size;
  return std::max({spec.num_selected_blocks, MaxSelectedBlocks(spec, trained_context),
                   static_cast<int32_t>(dense)});
}

}  // namespace

absl::StatusOr<std::unique_ptr<ModelRunner>> ModelRunner::Create(const Model* model,
                                                                 kernels::Backend* backend,
                                                                 KvCache* cache,
                                                                 const Options& options) {
  auto plan = AttentionPlan::Resolve(options.spec, model->config.attention);
  if (!plan.ok()) return plan.status();
  auto full_plan = AttentionPlan::Resolve(FullAttentionSpec(), model->config.attention);
  if (!full_plan.ok()) return full_plan.status();
  auto runner = absl::WrapUnique(
      new ModelRunner(model, backend, cache, *std::move(plan), *std::move(full_plan), options));
  if (absl::Status status = runner->PrepareLayers(options); !status.ok()) return status;
  return runner;
}

ModelRunner::ModelRunner(const Model* model, kernels::Backend* backend, KvCache* cache,
                         AttentionPlan plan, AttentionPlan full_plan, const Options& options)
    : model_(model),
      backend_(backend),
      cache_(cache),
      plan_(std::move(plan)),
      full_plan_(std::move(full_plan)),
      precision_(options.precision),
      workspace_(*backend, model->config.attention, options.max_rows,
                 WorkspaceBlocks(options.spec, model->config.trained_context)),
      gated_layer_(backend, std::bind_front(&ModelRunner::Leave, this)) {
  const ModelConfig& config = model_->config;
  const AttentionShape& a = config.attention;
  ids_.resize(static_cast<size_t>(options.max_rows));
  num_selected_.resize(static_cast<size_t>(options.max_rows));
  const auto floats = [&](int64_t rows, int64_t columns) {
    return kernels::Array<float>(*backend_, rows * columns);
  };
  hidden_ = floats(options.max_rows, config.hidden_size);
  normed_ = floats(options.max_rows, config.hidden_size);
  qkv_ = floats(options.max_rows, QkvWidth(config));
  attention_ = floats(options.max_rows, int64_t{a.num_q_heads} * a.head_dim_v);
  gates_ = floats(options.max_rows, GatesWidth(config));
  gate_hidden_ = floats(options.max_rows, config.gate_hidden_size);
  gate_up_ = floats(options.max_rows, int64_t{2} * config.ffn_size);
  logits_ = floats(kLogitRows, config.vocabulary_size);
  logits_rows_.reserve(kLogitRows);
  kept_hidden_.resize(static_cast<size_t>(options.kept_rows * config.hidden_size));
  tokens_ = kernels::Array<int32_t>(*backend_, options.max_rows);
  places_.resize(ids_.size());
  for (Step& step : steps_) {
    const int64_t num_bytes = static_cast<int64_t>(sizeof(PageAges)) + tokens_.num_bytes();
    step.read = backend_->AllocateForReads(num_bytes);
    if (step.read.data() == nullptr) throw std::bad_alloc();
  }
  if (options.kept_rows > 0) {
    moved_hidden_.resize(static_cast<size_t>(options.max_rows * config.hidden_size));
  }
}

absl::Status ModelRunner::PrepareLayers(const Options& options) {
  const ModelConfig& config = model_->config;
  std::vector<double> factors;
  for (const RopeParameters& parameters : config.ropes) {
    const auto rope = MakeFrequencies(parameters, options.max_context);
    if (!rope.ok()) return rope.status();
    if (rope->attention_factor != 1 && parameters.rotary_dim != config.attention.head_dim_k) {
      return absl::UnimplementedError(
          "a rope with an attention factor that turns a part of each head is not served");
    }
    ropes_.emplace_back(*backend_, rope->inverse_frequencies, options.max_context);
    factors.push_back(rope->attention_factor);
  }
  for (const LayerAttention& layer : config.layers) {
    LayerState& state = layers_.emplace_back();
    // Cosines and sines of Q and of K times the factor are scores times its square.
    const double factor = factors[static_cast<size_t>(layer.rope_index)];
    state.rope = &ropes_[static_cast<size_t>(layer.rope_index)];
    state.shape = config.attention;
    state.shape.scale = static_cast<float>(state.shape.scale * factor * factor);
    if (layer.window_size == 0) continue;
    auto plan = AttentionPlan::Resolve(FullAttentionSpec(layer.window_size), state.shape);
    if (!plan.ok()) return plan.status();
    state.window_plan = *std::move(plan);
  }
  return absl::OkStatus();
}

int64_t ModelRunner::WorkspaceBytes(const ModelConfig& config, const Options& options) {
  const AttentionShape& a = config.attention;
  const int64_t heads_width = int64_t{a.num_q_heads} * (a.head_dim_v + 1);
  const int64_t row =
      1 + 2 * int64_t{config.hidden_size} + QkvWidth(config) +
      int64_t{a.num_q_heads} * a.head_dim_v + GatesWidth(config) + config.gate_hidden_size +
      2 * int64_t{config.ffn_size} + kernels::kMaxBranches * heads_width +
      int64_t{a.num_kv_heads} * (WorkspaceBlocks(options.spec, config.trained_context) + 1);
  int64_t rope_width = 0;
  for (const RopeParameters& rope : config.ropes) rope_width += rope.rotary_dim;
  const int64_t rope =
      (options.max_context / kernels::kPageSize + 2 + kernels::kPageSize) * rope_width;
  int64_t compressor = 0;
  if (options.spec.compression == Compression::kLearned) {
    compressor = WindowCompressor::NumBytes(
        int64_t{options.spec.compression_length} * std::max(a.head_dim_k, a.head_dim_v),
        config.compress_hidden_size);
  }
  const int64_t kept = options.kept_rows > 0 ? options.kept_rows + options.max_rows : 0;
  return compressor +
         static_cast<int64_t>(sizeof(float)) * (options.max_rows * row + kept * config.hidden_size +
                                                kLogitRows * config.vocabulary_size + rope);
}

void ModelRunner::LayOut(const Batch& batch) {
  CHECK(batch.num_rows <= static_cast<int64_t>(ids_.size())) << batch.num_rows << " rows";
  num_rows_ = 0;
  entry_row_begin_.assign(batch.entries.size(), 0);
  for (const bool full : {true, false}) {
    PlanRows& rows = plan_rows_[full ? 0 : 1];
    rows.plan = full ? &full_plan_ : &plan_;
    rows.row_begin = num_rows_;
    rows.segments.clear();
    rows.entries.clear();
    for (size_t e = 0; e < batch.entries.size(); ++e) {
      const BatchEntry& entry = batch.entries[e];
      if ((entry.full_attention || !plan_.spec().sparse) != full || !is_in_[e]) continue;
      entry_row_begin_[e] = num_rows_;
      rows.entries.push_back(e);
      const auto num_tokens = static_cast<int32_t>(entry.tokens.size());
      rows.segments.push_back({.page_table = entry.page_table.data(),
                               .position = entry.num_cached,
                               .row_begin = static_cast<int32_t>(num_rows_),
                               .num_rows = num_tokens});
      std::copy(entry.tokens.begin(), entry.tokens.end(), ids_.begin() + num_rows_);
      std::fill_n(places_.begin() + num_rows_, num_tokens, -1);
      places_[static_cast<size_t>(num_rows_ + num_tokens - 1)] = entry.token_place;
      for (int32_t i = 0; i < num_tokens; ++i) {
        num_selected_[static_cast<size_t>(num_rows_ + i)] =
            plan_.NumSelected(entry.num_cached + i, std::max(1, entry.num_selected_blocks));
      }
      num_rows_ += num_tokens;
    }
    rows.num_rows = num_rows_ - rows.row_begin;
  }
}

void ModelRunner::Run(const Batch& batch, const LogitsConsumer& consumer) {
  RunLayers(batch);
  const int64_t vocabulary = model_->config.vocabulary_size;
  EmitLogits(batch, [&](const std::vector<LogitsRow>& rows) {
    for (size_t i = 0; i < rows.size(); ++i) {
      consumer(rows[i].entry, rows[i].row, logits_.data() + static_cast<int64_t>(i) * vocabulary);
    }
  });
}

void ModelRunner::Launch(const Batch& batch, TokenChooser& chooser) {
  CHECK(num_launched_ - num_collected_ < kMaxSteps) << "nobody has collected a step's tokens";
  Step& step = steps_[num_launched_++ % kMaxSteps];
  step.rows.clear();
  RunLayers(batch);
  EmitLogits(batch, [&](const std::vector<LogitsRow>& rows) { DrawTokens(rows, step, chooser); });
  if (!backend_->is_asynchronous()) return;
  if (!step.rows.empty()) {
    backend_->ReadLater(step.tokens(), tokens_.data(),
                        static_cast<int64_t>(step.rows.size() * sizeof(int32_t)));
  }
  step.has_ages = workspace_.ReadAgesLater(*backend_, step.ages());
  step.mark = backend_->Mark();
}

void ModelRunner::Collect(TokenChooser& chooser) {
  CHECK(num_collected_ < num_launched_) << "no step has been launched";
  const Step& step = steps_[num_collected_++ % kMaxSteps];
  if (!backend_->is_asynchronous()) return;
  backend_->Wait(step.mark);
  if (step.has_ages) workspace_.SetAges(*step.ages());
  for (size_t i = 0; i < step.rows.size(); ++i) {
    chooser.Take(step.rows[i].entry, step.rows[i].row, step.tokens()[i]);
  }
}

void ModelRunner::DrawTokens(const std::vector<LogitsRow>& rows, Step& step,
                             TokenChooser& chooser) {
  const int64_t vocabulary = model_->config.vocabulary_size;
  sample_params_.clear();
  for (size_t i = 0; i < rows.size(); ++i) {
    const auto place = static_cast<int32_t>(step.rows.size());
    const auto [entry, row] = rows[i];
    kernels::SampleParams params;
    params.logits = logits_.data() + static_cast<int64_t>(i) * vocabulary;
    params.vocabulary_size = vocabulary;
    params.token_id = tokens_.data() + place;
    if (!chooser.Ask(entry, row, place, params.logits, params)) continue;
    if (backend_->is_asynchronous()) {
      step.rows.push_back(rows[i]);
      sample_params_.push_back(params);
      continue;
    }
    backend_->Sample({&params, 1});
    int32_t token_id = kernels::kNoToken;
    backend_->Read(&token_id, params.token_id, sizeof(token_id));
    chooser.Take(entry, row, token_id);
  }
  if (!sample_params_.empty()) backend_->Sample(sample_params_);
}

void ModelRunner::RunLayers(const Batch& batch) {
  batch_ = &batch;
  is_in_.resize(batch.entries.size());
  for (size_t e = 0; e < is_in_.size(); ++e) is_in_[e] = batch.entries[e].first_layer == 0;
  LayOut(batch);
  CHECK(num_rows_ == batch.num_rows || batch.gate != nullptr)
      << num_rows_ << " laid out of " << batch.num_rows;
  backend_->BeginStep();
  cache_->WritePlaces(*backend_);
  if (num_rows_ > 0) {
    backend_->Embed({.table = model_->embedding.matrix,
                     .ids = ids_.data(),
                     .y = hidden_.data(),
                     .num_rows = num_rows_,
                     .scale = model_->config.embedding_scale,
                     .places = backend_->is_asynchronous() ? places_.data() : nullptr,
                     .sampled = tokens_.data()});
  }
  for (int i = 0; i < model_->config.num_layers; ++i) {
    if (batch.gate != nullptr) Regroup(batch, i);
    if (num_rows_ > 0) RunLayer(i);
  }
  if (batch.gate != nullptr) Regroup(batch, model_->config.num_layers);
}

void ModelRunner::Leave(size_t entry, int64_t row_begin, int32_t kept_row) {
  const int64_t hidden = model_->config.hidden_size;
  const auto num_rows = static_cast<int64_t>(batch_->entries[entry].tokens.size());
  CHECK((kept_row + num_rows) * hidden <= static_cast<int64_t>(kept_hidden_.size()))
      << num_rows << " rows to keep at " << kept_row;
  // Attention has not touched them yet: they are what came into the layer.
  backend_->Read(kept_hidden_.data() + kept_row * hidden, hidden_.data() + row_begin * hidden,
                 num_rows * hidden * static_cast<int64_t>(sizeof(float)));
  left_.push_back(entry);
  num_left_rows_ += num_rows;
}

void ModelRunner::Regroup(const Batch& batch, int layer) {
  const auto begins = [&](const BatchEntry& entry) {
    return layer > 0 && entry.first_layer == layer;
  };
  if (left_.empty() && std::ranges::none_of(batch.entries, begins)) return;
  for (const size_t entry : left_) is_in_[entry] = false;
  left_.clear();
  num_left_rows_ = 0;
  const std::vector<bool> was_in = is_in_;
  for (size_t e = 0; e < is_in_.size(); ++e) {
    if (begins(batch.entries[e])) is_in_[e] = true;
  }
  const int64_t hidden = model_->config.hidden_size;
  const std::vector<int64_t> old_row_begin = entry_row_begin_;
  const auto num_bytes = [&](int64_t rows) {
    return rows * hidden * static_cast<int64_t>(sizeof(float));
  };
  backend_->Read(moved_hidden_.data(), hidden_.data(), num_bytes(num_rows_));
  LayOut(batch);
  backend_->BeginStep();  // segments have changed
  for (size_t e = 0; e < is_in_.size(); ++e) {
    if (!is_in_[e]) continue;
    const float* rows = was_in[e] ? moved_hidden_.data() + old_row_begin[e] * hidden
                                  : kept_hidden_.data() + batch.entries[e].kept_row * hidden;
    backend_->Write(hidden_.data() + entry_row_begin_[e] * hidden, rows,
                    num_bytes(static_cast<int64_t>(batch.entries[e].tokens.size())));
  }
}

void ModelRunner::Product(const float* x, int64_t x_stride, const kernels::PackedMatrix& w,
                          float* y, int64_t y_stride, int64_t num_rows,
                          const kernels::Array<float>& bias) {
  backend_->Gemm({.x = x,
                  .x_stride = x_stride,
                  .y = y,
                  .y_stride = y_stride,
                  .num_rows = num_rows,
                  .w = &w,
                  .bias = bias.data()});
}

void ModelRunner::Norm(const float* x, const kernels::Array<float>& weight, float* y,
                       bool accumulate) {
  const int64_t hidden = model_->config.hidden_size;
  backend_->RmsNorm({.x = x,
                     .x_stride = hidden,
                     .weight = weight.data(),
                     .epsilon = model_->config.rms_norm_epsilon,
                     .y = y,
                     .y_stride = hidden,
                     .num_rows = num_rows_,
                     .num_columns = hidden,
                     .accumulate = accumulate});
}

void ModelRunner::AddToResidual(const float* x, int64_t x_stride, const kernels::PackedMatrix& w,
                                const kernels::Array<float>& bias,
                                const kernels::Array<float>& norm) {
  const int64_t hidden = model_->config.hidden_size;
  const bool direct = norm.empty();
  backend_->Gemm({.x = x,
                  .x_stride = x_stride,
                  .y = direct ? hidden_.data() : normed_.data(),
                  .y_stride = hidden,
                  .num_rows = num_rows_,
                  .w = &w,
                  .bias = bias.data(),
                  .accumulate = direct,
                  .scale = model_->config.residual_scale});
  if (!direct) Norm(normed_.data(), norm, hidden_.data(), true);
}

void ModelRunner::RunLayer(int index) {
  const DecoderLayer& layer = model_->layers[static_cast<size_t>(index)];
  const int64_t hidden = model_->config.hidden_size, ffn = model_->config.ffn_size;
  Norm(hidden_.data(), layer.attention_norm, normed_.data());
  Product(normed_.data(), hidden, *layer.qkv, qkv_.data(), layer.qkv->num_rows(), num_rows_,
          layer.qkv_bias);
  if (layer.gates != nullptr) RunGates(layer);
  NormaliseHeads(layer);
  RunAttention(index);
  if (num_left_rows_ == num_rows_) return;  // nobody is left
  AddToResidual(attention_.data(), layer.output->num_columns(), *layer.output, layer.output_bias,
                layer.post_attention_norm);
  Norm(hidden_.data(), layer.ffn_norm, normed_.data());
  Product(normed_.data(), hidden, *layer.gate_up, gate_up_.data(), 2 * ffn, num_rows_,
          layer.gate_up_bias);
  backend_->Glu({.gate = gate_up_.data(),
                 .gate_stride = 2 * ffn,
                 .up = gate_up_.data() + ffn,
                 .up_stride = 2 * ffn,
                 .y = gate_up_.data(),
                 .y_stride = 2 * ffn,
                 .num_rows = num_rows_,
                 .num_columns = ffn,
                 .activation = model_->config.activation});
  AddToResidual(gate_up_.data(), 2 * ffn, *layer.down, layer.down_bias, layer.post_ffn_norm);
}

void ModelRunner::RunGates(const DecoderLayer& layer) {
  const float* x = normed_.data();
  int64_t width = model_->config.hidden_size;
  if (layer.gate_hidden != nullptr) {
    const int64_t hidden = layer.gate_hidden->num_rows();
    Product(x, width, *layer.gate_hidden, gate_hidden_.data(), hidden, num_rows_,
            layer.gate_hidden_bias);
    backend_->Glu({.gate = gate_hidden_.data(),
                   .gate_stride = hidden,
                   .y = gate_hidden_.data(),
                   .y_stride = hidden,
                   .num_rows = num_rows_,
                   .num_columns = hidden,
                   .activation = model_->config.activation});
    x = gate_hidden_.data();
    width = hidden;
  }
  Product(x, width, *layer.gates, gates_.data(), layer.gates->num_rows(), num_rows_,
          layer.gates_bias);
}

void ModelRunner::NormaliseHeads(const DecoderLayer& layer) {
  const AttentionShape& a = model_->config.attention;
  const int64_t width = QkvWidth(model_->config);
  const auto normalise = [&](float* x, const kernels::Array<float>& weight, int num_heads) {
    if (weight.empty()) return;
    backend_->RmsNorm({.x = x,
                       .x_stride = width,
                       .weight = weight.data(),
                       .epsilon = model_->config.rms_norm_epsilon,
                       .y = x,
                       .y_stride = width,
                       .num_rows = num_rows_,
                       .num_columns = a.head_dim_k,
                       .num_groups = num_heads});
  };
  normalise(qkv_.data(), layer.q_norm, a.num_q_heads);
  normalise(qkv_.data() + int64_t{a.num_q_heads} * a.head_dim_k, layer.k_norm, a.num_kv_heads);
}

AttentionInputs ModelRunner::InputsOf(int index, const PlanRows& rows) {
  const DecoderLayer& weights = model_->layers[static_cast<size_t>(index)];
  const LayerState& layer = layers_[static_cast<size_t>(index)];
  const AttentionShape& a = layer.shape;
  AttentionInputs inputs;
  inputs.query.q = qkv_.data();
  inputs.query.q_stride = QkvWidth(model_->config);
  inputs.query.num_q_heads = a.num_q_heads;
  inputs.query.scale = a.scale;
  inputs.query.segments = rows.segments.data();
  inputs.query.num_segments = static_cast<int>(rows.segments.size());
  inputs.query.rope = layer.rope->view();
  inputs.query.precision = precision_;
  const float* k = qkv_.data() + int64_t{a.num_q_heads} * a.head_dim_k;
  for (int b = 0; b < model_->config.num_kv(); ++b, k += KvWidth(a)) {
    inputs.branch_kv[b] = {
        .k = k, .v = k + int64_t{a.num_kv_heads} * a.head_dim_k, .kv = cache_->view(index, b)};
  }
  inputs.k_stride = inputs.v_stride = inputs.query.q_stride;
  if (weights.compress_k.has_value()) inputs.compress_k = &*weights.compress_k;
  if (weights.compress_v.has_value()) inputs.compress_v = &*weights.compress_v;
  inputs.row_num_selected_blocks = num_selected_.data();
  if (!gates_.empty()) {
    inputs.gate_logits = gates_.data();
    inputs.gate_stride = GatesWidth(model_->config);
  }
  inputs.row_begin = rows.row_begin;
  inputs.num_rows = rows.num_rows;
  inputs.y = attention_.data();
  if (batch_->gate != nullptr) inputs.observer = &gated_layer_;
  return inputs;
}

void ModelRunner::RunAttention(int index) {
  const LayerState& layer = layers_[static_cast<size_t>(index)];
  for (const PlanRows& rows : plan_rows_) {
    if (rows.num_rows == 0) continue;
    const AttentionPlan& plan = layer.window_plan ? *layer.window_plan : *rows.plan;
    gated_layer_.Begin(batch_, index, rows.entries);
    plan.Run(*backend_, InputsOf(index, rows), workspace_);
  }
}

template <typename OnRows>
void ModelRunner::EmitLogits(const Batch& batch, const OnRows& on_rows) {
  const int64_t hidden = model_->config.hidden_size, vocabulary = model_->config.vocabulary_size;
  std::vector<LogitsRow>& wanted = logits_rows_;
  wanted.clear();
  const auto flush = [&] {
    Product(normed_.data(), hidden, *model_->lm_head, logits_.data(), vocabulary,
            static_cast<int64_t>(wanted.size()));
    on_rows(wanted);
    wanted.clear();
  };
  for (size_t e = 0; e < batch.entries.size(); ++e) {
    const BatchEntry& entry = batch.entries[e];
    if (!is_in_[e]) continue;
    const auto num_tokens = static_cast<int64_t>(entry.tokens.size());
    for (int64_t row = num_tokens - entry.num_logit_rows; row < num_tokens; ++row) {
      backend_->RmsNorm({.x = hidden_.data() + (entry_row_begin_[e] + row) * hidden,
                         .x_stride = hidden,
                         .weight = model_->output_norm.data(),
                         .epsilon = model_->config.rms_norm_epsilon,
                         .y = normed_.data() + static_cast<int64_t>(wanted.size()) * hidden,
                         .y_stride = hidden,
                         .num_rows = 1,
                         .num_columns = hidden});
      wanted.push_back({e, row});
      if (static_cast<int64_t>(wanted.size()) == std::min<int64_t>(kLogitRows, ids_.size()))
        flush();
    }
  }
  if (!wanted.empty()) flush();
}

}  // namespace nsa::engine
