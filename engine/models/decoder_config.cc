#include "engine/models/decoder_config.h"

#include <cmath>
#include <limits>
#include <map>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "engine/text.h"

namespace nsa::engine {
namespace {

constexpr int64_t kMaxLayers = 1024;
constexpr int64_t kMaxSize = int64_t{1} << 20;
constexpr int64_t kMaxHeads = 1024;
constexpr int64_t kMaxHeadDim = 1024;
constexpr int64_t kMaxTrainedContext = int64_t{1} << 24;

/// One size that must be there.
struct Size {
  const std::string& key;
  int64_t high;
  int32_t& target;
};

absl::Status ReadSizes(const ConfigSource& source, std::initializer_list<Size> sizes) {
  for (const Size& size : sizes) {
    if (size.key.empty()) continue;
    const auto value = GetBounded(source, size.key, 1, size.high);
    if (!value.ok()) return value.status();
    size.target = static_cast<int32_t>(*value);
  }
  return absl::OkStatus();
}

absl::Status ReadHeads(const ConfigSource& source, const DecoderKeys& keys, int64_t q_rows,
                       ModelConfig& config) {
  const auto q_heads = GetBounded(source, keys.num_q_heads, 1, kMaxHeads);
  if (!q_heads.ok()) return q_heads.status();
  const auto kv_heads = GetBoundedOr(source, keys.num_kv_heads, 1, *q_heads, *q_heads);
  if (!kv_heads.ok()) return kv_heads.status();
  if (*q_heads % *kv_heads != 0) {
    return Invalid(source, absl::StrFormat("%s %d is no multiple of %s %d", keys.num_q_heads,
                                           *q_heads, keys.num_kv_heads, *kv_heads));
  }
  const int64_t share = (q_rows > 0 ? q_rows : config.hidden_size) / *q_heads;
  const auto dim_k = GetBoundedOr(source, keys.head_dim_k, 1, kMaxHeadDim, share);
  if (!dim_k.ok()) return dim_k.status();
  const auto dim_v = GetBoundedOr(source, keys.head_dim_v, 1, kMaxHeadDim,
                                  keys.head_dim_v.empty() ? *dim_k : share);
  if (!dim_v.ok()) return dim_v.status();
  const auto rotary = GetBoundedOr(source, keys.rotary_dim, 0, *dim_k, *dim_k);
  if (!rotary.ok()) return rotary.status();
  if (*rotary % 2 != 0 || *dim_k < 1 || *dim_v < 1) {
    return Invalid(source, absl::StrFormat("head sizes: key %d, value %d, rotary %d (must be even)",
                                           *dim_k, *dim_v, *rotary));
  }
  config.attention = {.num_q_heads = static_cast<int>(*q_heads),
                      .num_kv_heads = static_cast<int>(*kv_heads),
                      .head_dim_k = static_cast<int>(*dim_k),
                      .head_dim_v = static_cast<int>(*dim_v),
                      .scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(*dim_k)))};
  RopeParameters rope;
  rope.rotary_dim = static_cast<int>(*rotary);
  rope.trained_context = config.trained_context;
  config.ropes = {rope};
  config.layers.assign(static_cast<size_t>(config.num_layers), LayerAttention{});
  return absl::OkStatus();
}

}  // namespace

DecoderKeys GgufKeys(std::string_view architecture) {
  const auto key = [&](const char* name) { return absl::StrCat(View(architecture), ".", name); };
  return {.num_layers = key("block_count"),
          .hidden_size = key("embedding_length"),
          .ffn_size = key("feed_forward_length"),
          .trained_context = key("context_length"),
          .rms_norm_epsilon = key("attention.layer_norm_rms_epsilon"),
          .num_q_heads = key("attention.head_count"),
          .num_kv_heads = key("attention.head_count_kv"),
          .head_dim_k = key("attention.key_length"),
          .head_dim_v = key("attention.value_length"),
          .rotary_dim = key("rope.dimension_count")};
}

DecoderKeys TransformersKeys() {
  return {.num_layers = "num_hidden_layers",
          .hidden_size = "hidden_size",
          .ffn_size = "intermediate_size",
          .trained_context = "max_position_embeddings",
          .rms_norm_epsilon = "rms_norm_eps",
          .num_q_heads = "num_attention_heads",
          .num_kv_heads = "num_key_value_heads",
          .head_dim_k = "head_dim",
          .head_dim_v = "",
          .rotary_dim = ""};
}

absl::StatusOr<int64_t> GetBounded(const ConfigSource& source, std::string_view key, int64_t low,
                                   int64_t high) {
  const absl::StatusOr<int64_t> value = source.GetInt(key);
  if (!value.ok()) return value.status();
  if (*value < low || *value > high) {
    return Invalid(source,
                   absl::StrFormat("%s is %d, expected %d to %d", View(key), *value, low, high));
  }
  return *value;
}

absl::StatusOr<int64_t> GetBoundedOr(const ConfigSource& source, std::string_view key, int64_t low,
                                     int64_t high, int64_t otherwise) {
  if (key.empty() || !source.Has(key)) return otherwise;
  return GetBounded(source, key, low, high);
}

absl::StatusOr<double> GetFloatOr(const ConfigSource& source, std::string_view key,
                                  double otherwise) {
  if (!source.Has(key)) return otherwise;
  return source.GetFloat(key);
}

absl::StatusOr<bool> GetBoolOr(const ConfigSource& source, std::string_view key, bool otherwise) {
  if (!source.Has(key)) return otherwise;
  return source.GetBool(key);
}

absl::StatusOr<std::string> GetStringOr(const ConfigSource& source, std::string_view key,
                                        std::string_view otherwise) {
  if (!source.Has(key)) return std::string(otherwise);
  const auto value = source.GetString(key);
  if (!value.ok()) return value.status();
  return std::string(*value);
}

absl::Status Invalid(const ConfigSource& source, std::string_view message) {
  return absl::InvalidArgumentError(absl::StrCat(source.path(), ": ", View(message)));
}

absl::Status ReadDecoderSizes(const ConfigSource& source, const DecoderKeys& keys,
                              const WeightMap& weights, std::string_view embedding, int64_t q_rows,
                              ModelConfig& config) {
  if (absl::Status status = ReadSizes(source, {{keys.num_layers, kMaxLayers, config.num_layers},
                                               {keys.hidden_size, kMaxSize, config.hidden_size},
                                               {keys.ffn_size, kMaxSize, config.ffn_size}});
      !status.ok()) {
    return status;
  }
  const auto context = GetBounded(source, keys.trained_context, 1, kMaxTrainedContext);
  if (!context.ok()) return context.status();
  config.trained_context = *context;
  const auto epsilon = source.GetFloat(keys.rms_norm_epsilon);
  if (!epsilon.ok()) return epsilon.status();
  if (!(*epsilon >= 0 && *epsilon < 1)) {
    return Invalid(source, absl::StrCat(keys.rms_norm_epsilon, " is ", *epsilon,
                                        ", expected at least 0 and below 1"));
  }
  config.rms_norm_epsilon = static_cast<float>(*epsilon);
  const std::string table = absl::StrCat(View(embedding), ".weight");
  const WeightTensor* tensor = weights.Find(table);
  if (tensor == nullptr || tensor->shape.size() != 2 ||
      tensor->shape[0] > std::numeric_limits<int32_t>::max()) {
    return absl::InvalidArgumentError(
        absl::StrCat(weights.origin(), ": tensor '", table, "' is missing or is no matrix"));
  }
  config.vocabulary_size = static_cast<int32_t>(tensor->shape[0]);
  if (absl::Status status = ReadHeads(source, keys, q_rows, config); !status.ok()) return status;
  CountWeights(weights, config);
  return absl::OkStatus();
}

void CountWeights(const WeightMap& weights, ModelConfig& config) {
  std::map<std::string_view, int64_t> counts;
  config.num_parameters = 0;
  for (const WeightTensor& tensor : weights.tensors()) {
    int64_t elements = 1;
    for (const int64_t size : tensor.shape) elements *= size;
    counts[tensor.type_name] += elements;
    config.num_parameters += elements;
  }
  int64_t most = 0;
  for (const auto& [type, count] : counts) {
    if (count <= most) continue;
    most = count;
    config.weight_type = std::string(type);
  }
}

}  // namespace nsa::engine
