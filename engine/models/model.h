#ifndef NSA_ENGINE_MODELS_MODEL_H_
#define NSA_ENGINE_MODELS_MODEL_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/attention/plan.h"
#include "engine/attention/window_perceptron.h"
#include "engine/models/rope_scaling.h"
#include "kernels/array.h"
#include "kernels/backend.h"

namespace nsa::engine {

/// How one layer attends.
struct LayerAttention {
  int rope_index = 0;       // in ModelConfig::ropes
  int64_t window_size = 0;  // > 0: the last so many tokens alone, the query included
};

/// Sizes and constants of a decoder-only transformer.
struct ModelConfig {
  std::string family;        // our name: "llama"
  std::string architecture;  // the checkpoint's own word
  std::string name;
  std::string weight_type;  // of the most weights
  int32_t num_layers = 0;
  int32_t hidden_size = 0;
  int32_t ffn_size = 0;
  int32_t vocabulary_size = 0;
  AttentionShape attention;
  std::vector<LayerAttention> layers;  // [num_layers]
  std::vector<RopeParameters> ropes;
  /// The sparse attention that the checkpoint was trained with; nothing where it was trained with
  /// full attention.
  std::optional<AttentionSpec> native_attention;
  kernels::GateActivation activation = kernels::GateActivation::kSilu;
  bool tied_embeddings = false;  // the output matrix is the embedding, whatever else the file has
  float rms_norm_epsilon = 1e-5f;
  float embedding_scale = 1;  // of embeddings
  float residual_scale = 1;   // of what a layer's halves add to the residual stream
  float logits_scale = 1;
  int64_t trained_context = 0;
  int64_t num_parameters = 0;
  // Hidden sizes of perceptrons; 0: the model has none.
  int32_t gate_hidden_size = 0;      // of the gates
  int32_t compress_hidden_size = 0;  // of learned compressions

  /// K and V of a layer: one for each branch, or one of all.
  int num_kv() const {
    return native_attention.has_value() && native_attention->branch_kv ? kernels::kMaxBranches : 1;
  }
};

/// One layer's weights. Norm weights [hidden_size]; what is empty or null the model has not.
struct DecoderLayer {
  kernels::Array<float> attention_norm;
  // Rows: query heads, then num_kv times key heads and value heads.
  std::unique_ptr<kernels::PackedMatrix> qkv;
  kernels::Array<float> qkv_bias;                      // [rows of qkv]
  kernels::Array<float> q_norm, k_norm;                // [head_dim_k], of each head
  std::unique_ptr<kernels::PackedMatrix> gate_hidden;  // where gates are a perceptron's
  kernels::Array<float> gate_hidden_bias;              // [gate_hidden_size]
  std::unique_ptr<kernels::PackedMatrix> gates;        // rows: query heads × branches
  kernels::Array<float> gates_bias;                    // [rows of gates]
  std::optional<WindowPerceptron> compress_k, compress_v;
  std::unique_ptr<kernels::PackedMatrix> output;
  kernels::Array<float> output_bias;          // [hidden_size]
  kernels::Array<float> post_attention_norm;  // of what attention adds
  kernels::Array<float> ffn_norm;
  std::unique_ptr<kernels::PackedMatrix> gate_up;  // rows: gate [ffn_size], up [ffn_size]
  kernels::Array<float> gate_up_bias;              // [2 · ffn_size]
  std::unique_ptr<kernels::PackedMatrix> down;
  kernels::Array<float> down_bias;      // [hidden_size]
  kernels::Array<float> post_ffn_norm;  // of what the feed-forward half adds
};

/// A loaded model: what a family file makes of a checkpoint, in the form that ModelRunner runs.
/// Q and K rows are in half-split rotary order whatever the file's. Immutable.
struct Model {
  ModelConfig config;
  kernels::StoredMatrix embedding;  // [vocabulary_size, hidden_size]; may be in the mapped file
  std::vector<DecoderLayer> layers;
  kernels::Array<float> output_norm;
  std::unique_ptr<kernels::PackedMatrix> lm_head;  // [vocabulary_size, hidden_size]
  int64_t packed_bytes = 0;
};

}  // namespace nsa::engine

#endif  // NSA_ENGINE_MODELS_MODEL_H_
