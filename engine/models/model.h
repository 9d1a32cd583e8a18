#ifndef NSA_ENGINE_MODELS_MODEL_H_
#define NSA_ENGINE_MODELS_MODEL_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "engine/attention/plan.h"
#include "kernels/backend.h"

namespace nsa::engine {

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
  float rms_norm_epsilon = 1e-5f;
  std::vector<double> inverse_frequencies;  // [rotary_dim / 2]
  int64_t trained_context = 0;
  int64_t num_parameters = 0;
};

/// One layer's weights. Norm weights [hidden_size].
struct DecoderLayer {
  std::vector<float> attention_norm;
  std::unique_ptr<kernels::PackedMatrix> qkv;  // rows: query heads, key heads, value heads
  std::vector<float> qkv_bias;                 // [rows of qkv] or empty
  std::unique_ptr<kernels::PackedMatrix> output;
  std::vector<float> ffn_norm;
  std::unique_ptr<kernels::PackedMatrix> gate_up;  // rows: gate [ffn_size], up [ffn_size]
  std::unique_ptr<kernels::PackedMatrix> down;
};

/// A loaded model: what a family file makes of a checkpoint, in the form that ModelRunner runs.
/// Q and K rows are in half-split rotary order whatever the file's. Immutable.
struct Model {
  ModelConfig config;
  kernels::WeightMatrix embedding;  // [vocabulary_size, hidden_size], in the mapped checkpoint
  std::vector<DecoderLayer> layers;
  std::vector<float> output_norm;
  std::unique_ptr<kernels::PackedMatrix> lm_head;  // [vocabulary_size, hidden_size]
  int64_t packed_bytes = 0;
};

}  // namespace nsa::engine

#endif  // NSA_ENGINE_MODELS_MODEL_H_
