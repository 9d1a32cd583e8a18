#ifndef NSA_ENGINE_MODELS_DECODER_CONFIG_H_
#define NSA_ENGINE_MODELS_DECODER_CONFIG_H_

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/models/model.h"
#include "engine/weights/config_source.h"
#include "engine/weights/weight_map.h"

namespace nsa::engine {

/// Which keys of a configuration hold a decoder's sizes. An empty key is never read, and the
/// default of the ones that may be absent counts.
struct DecoderKeys {
  std::string num_layers;
  std::string hidden_size;
  std::string ffn_size;
  std::string trained_context;
  std::string rms_norm_epsilon;
  std::string num_q_heads;
  std::string num_kv_heads;  // by default as many
  std::string head_dim_k;    // by default hidden_size / num_q_heads
  std::string head_dim_v;    // by default as head_dim_k's default; without a key head_dim_k
  std::string rotary_dim;    // by default head_dim_k
};

/// GGUF's, `architecture` in front.
DecoderKeys GgufKeys(std::string_view architecture);
/// config.json's, as Llama's port in transformers has them.
DecoderKeys TransformersKeys();

/// An integer in [low, high]; InvalidArgument names the key, what was found and expected.
absl::StatusOr<int64_t> GetBounded(const ConfigSource& source, std::string_view key, int64_t low,
                                   int64_t high);
/// The same; `otherwise` where the key is empty or absent.
absl::StatusOr<int64_t> GetBoundedOr(const ConfigSource& source, std::string_view key, int64_t low,
                                     int64_t high, int64_t otherwise);
absl::StatusOr<double> GetFloatOr(const ConfigSource& source, std::string_view key,
                                  double otherwise);
absl::StatusOr<bool> GetBoolOr(const ConfigSource& source, std::string_view key, bool otherwise);
absl::StatusOr<std::string> GetStringOr(const ConfigSource& source, std::string_view key,
                                        std::string_view otherwise);

/// InvalidArgument in front of which stands the source's file.
absl::Status Invalid(const ConfigSource& source, std::string_view message);

/// Sizes, head shapes with the usual scale 1/√head_dim_k, and one rope of all layers, its theta and
/// scaling left at their defaults. The vocabulary's size is the rows of the tensor `embedding`; a
/// head's size is q_rows / heads where q_rows > 0; ffn_size stays where its key is empty.
/// Bounds what a file may claim, so that products of sizes stay far from overflow.
absl::Status ReadDecoderSizes(const ConfigSource& source, const DecoderKeys& keys,
                              const WeightMap& weights, std::string_view embedding, int64_t q_rows,
                              ModelConfig& config);

/// The name of the type that holds the most weights, and the number of weights.
void CountWeights(const WeightMap& weights, ModelConfig& config);

}  // namespace nsa::engine

#endif  // NSA_ENGINE_MODELS_DECODER_CONFIG_H_
