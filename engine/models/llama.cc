#include "engine/models/llama.h"

#include <array>
#include <cmath>
#include <map>
#include <span>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "engine/attention/rope_table.h"
#include "engine/text.h"
#include "engine/weights/weight_reader.h"
#include "kernels/quant.h"

namespace nsa::engine {
namespace {

// Bounds of what a file may claim, so that products of sizes stay far from overflow.
constexpr int64_t kMaxLayers = 1024;
constexpr int64_t kMaxSize = int64_t{1} << 20;
constexpr int64_t kMaxHeads = 1024;
constexpr int64_t kMaxHeadDim = 1024;
constexpr int64_t kMaxTrainedContext = int64_t{1} << 24;

/// An integer of the file in [low, high].
absl::StatusOr<int64_t> GetBounded(const GgufFile& file, const std::string& key, int64_t low,
                                   int64_t high) {
  const absl::StatusOr<int64_t> value = file.GetInt(key);
  if (!value.ok()) return value.status();
  if (*value < low || *value > high) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s: %s is %d, expected %d to %d", file.path(), key, *value, low, high));
  }
  return *value;
}

absl::StatusOr<int64_t> GetBoundedOr(const GgufFile& file, const std::string& key, int64_t low,
                                     int64_t high, int64_t otherwise) {
  if (file.FindValue(key) == nullptr) return otherwise;
  return GetBounded(file, key, low, high);
}

absl::Status Invalid(const GgufFile& file, const std::string& message) {
  return absl::InvalidArgumentError(absl::StrCat(file.path(), ": ", message));
}

/// Llama-3 style files scale the frequencies by a tensor of factors; linear scaling divides all.
absl::Status ReadRope(const GgufFile& file, int64_t rotary_dim, ModelConfig& config) {
  const std::string prefix = config.architecture + ".rope.";
  double theta = 10000.0;
  if (file.FindValue(prefix + "freq_base") != nullptr) {
    const absl::StatusOr<double> value = file.GetFloat(prefix + "freq_base");
    if (!value.ok()) return value.status();
    theta = *value;
  }
  if (!(theta > 1.0) || !std::isfinite(theta)) {
    return Invalid(file, absl::StrCat(prefix, "freq_base is ", theta, ", expected above 1"));
  }
  config.inverse_frequencies = InverseFrequencies(theta, static_cast<int>(rotary_dim));
  if (file.FindTensor("rope_freqs.weight") != nullptr) {
    const auto factors = ReadVector(file, "rope_freqs.weight", rotary_dim / 2);
    if (!factors.ok()) return factors.status();
    for (size_t i = 0; i < factors->size(); ++i) {
      if (!((*factors)[i] > 0)) return Invalid(file, "rope_freqs.weight has a factor not above 0");
      config.inverse_frequencies[i] /= (*factors)[i];
    }
  }
  if (file.FindValue(prefix + "scaling.type") == nullptr) return absl::OkStatus();
  const absl::StatusOr<std::string_view> type = file.GetString(prefix + "scaling.type");
  if (!type.ok()) return type.status();
  if (*type == "none") return absl::OkStatus();
  if (*type != "linear") {
    return absl::UnimplementedError(absl::StrCat(file.path(), ": ", prefix, "scaling.type is '",
                                                 View(*type),
                                                 "'; this server knows: none, linear"));
  }
  const absl::StatusOr<double> factor = file.GetFloat(prefix + "scaling.factor");
  if (!factor.ok()) return factor.status();
  if (!(*factor >= 1.0)) return Invalid(file, prefix + "scaling.factor is below 1");
  for (double& frequency : config.inverse_frequencies) frequency /= *factor;
  return absl::OkStatus();
}

/// The name of the format that holds the most weights, and the number of weights.
void CountWeights(const GgufFile& file, ModelConfig& config) {
  std::map<kernels::WeightType, int64_t> counts;
  for (const GgufTensor& tensor : file.tensors()) {
    int64_t elements = 1;
    for (const int64_t size : tensor.shape) elements *= size;
    counts[tensor.type] += elements;
    config.num_parameters += elements;
  }
  int64_t most = 0;
  for (const auto& [type, count] : counts) {
    if (count <= most) continue;
    most = count;
    config.weight_type = kernels::FindWeightBlock(type)->name;
  }
}

absl::Status ReadHeads(const GgufFile& file, ModelConfig& config, int64_t& rotary_dim) {
  const std::string prefix = config.architecture + ".";
  const auto q_heads = GetBounded(file, prefix + "attention.head_count", 1, kMaxHeads);
  if (!q_heads.ok()) return q_heads.status();
  const auto kv_heads =
      GetBoundedOr(file, prefix + "attention.head_count_kv", 1, *q_heads, *q_heads);
  if (!kv_heads.ok()) return kv_heads.status();
  if (*q_heads % *kv_heads != 0) {
    return Invalid(file,
                   absl::StrFormat("attention.head_count %d is no multiple of head_count_kv %d",
                                   *q_heads, *kv_heads));
  }
  const int64_t even_share = config.hidden_size / *q_heads;
  const auto dim_k =
      GetBoundedOr(file, prefix + "attention.key_length", 2, kMaxHeadDim, even_share);
  if (!dim_k.ok()) return dim_k.status();
  const auto dim_v =
      GetBoundedOr(file, prefix + "attention.value_length", 1, kMaxHeadDim, even_share);
  if (!dim_v.ok()) return dim_v.status();
  const auto rotary = GetBoundedOr(file, prefix + "rope.dimension_count", 0, *dim_k, *dim_k);
  if (!rotary.ok()) return rotary.status();
  if (*rotary % 2 != 0 || *dim_k < 1 || *dim_v < 1) {
    return Invalid(file, absl::StrFormat("head sizes: key %d, value %d, rotary %d (must be even)",
                                         *dim_k, *dim_v, *rotary));
  }
  rotary_dim = *rotary;
  config.attention = {.num_q_heads = static_cast<int>(*q_heads),
                      .num_kv_heads = static_cast<int>(*kv_heads),
                      .head_dim_k = static_cast<int>(*dim_k),
                      .head_dim_v = static_cast<int>(*dim_v),
                      .scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(*dim_k)))};
  return absl::OkStatus();
}

/// Row order that turns interleaved rotary pairs (2i, 2i+1), as llama files store them, into
/// half-split pairs (i, i + rotary/2), head by head.
std::vector<int64_t> HalfSplitOrder(int num_heads, int head_dim, int rotary_dim) {
  std::vector<int64_t> rows;
  for (int h = 0; h < num_heads; ++h) {
    const int64_t base = int64_t{h} * head_dim;
    for (int r = 0; r < rotary_dim; ++r) {
      const int half = rotary_dim / 2;
      rows.push_back(base + (r < half ? 2 * r : 2 * (r - half) + 1));
    }
    for (int r = rotary_dim; r < head_dim; ++r) rows.push_back(base + r);
  }
  return rows;
}

/// Reads and packs one file's tensors.
class LlamaLoader {
 public:
  LlamaLoader(const GgufFile& file, kernels::Backend& backend, Model& model)
      : file_(file), backend_(backend), model_(model), config_(model.config) {}

  absl::Status LoadLayer(int index);
  absl::Status LoadEmbeddingAndHead();

 private:
  absl::StatusOr<std::unique_ptr<kernels::PackedMatrix>> PackOne(const std::string& name,
                                                                 int64_t rows, int64_t columns) {
    const auto matrix = ReadMatrix(file_, name, rows, columns);
    if (!matrix.ok()) return matrix.status();
    return Keep(std::array{*matrix});
  }

  std::unique_ptr<kernels::PackedMatrix> Keep(std::span<const kernels::WeightMatrix> parts) {
    auto packed = backend_.Pack(parts);
    model_.packed_bytes += packed->num_bytes();
    return packed;
  }

  absl::Status LoadAttention(const std::string& prefix, DecoderLayer& layer);
  absl::Status LoadFeedForward(const std::string& prefix, DecoderLayer& layer);

  const GgufFile& file_;
  kernels::Backend& backend_;
  Model& model_;
  const ModelConfig& config_;
};

absl::Status LlamaLoader::LoadAttention(const std::string& prefix, DecoderLayer& layer) {
  const AttentionShape& a = config_.attention;
  const int64_t hidden = config_.hidden_size;
  const int rotary = static_cast<int>(config_.inverse_frequencies.size()) * 2;
  const int64_t q_rows = int64_t{a.num_q_heads} * a.head_dim_k;
  const int64_t k_rows = int64_t{a.num_kv_heads} * a.head_dim_k;
  const int64_t v_rows = int64_t{a.num_kv_heads} * a.head_dim_v;
  const auto q = ReadMatrix(file_, prefix + "attn_q.weight", q_rows, hidden);
  if (!q.ok()) return q.status();
  const auto k = ReadMatrix(file_, prefix + "attn_k.weight", k_rows, hidden);
  if (!k.ok()) return k.status();
  const auto v = ReadMatrix(file_, prefix + "attn_v.weight", v_rows, hidden);
  if (!v.ok()) return v.status();
  const auto q_order = HalfSplitOrder(a.num_q_heads, a.head_dim_k, rotary);
  const auto k_order = HalfSplitOrder(a.num_kv_heads, a.head_dim_k, rotary);
  const PermutedMatrix q_split = PermuteRows(*q, q_order);
  const PermutedMatrix k_split = PermuteRows(*k, k_order);
  layer.qkv = Keep(std::array{q_split.matrix, k_split.matrix, *v});
  if (file_.FindTensor(prefix + "attn_q.bias") != nullptr) {
    const auto q_bias = ReadVector(file_, prefix + "attn_q.bias", q_rows);
    if (!q_bias.ok()) return q_bias.status();
    const auto k_bias = ReadVector(file_, prefix + "attn_k.bias", k_rows);
    if (!k_bias.ok()) return k_bias.status();
    const auto v_bias = ReadVector(file_, prefix + "attn_v.bias", v_rows);
    if (!v_bias.ok()) return v_bias.status();
    for (const int64_t row : q_order) layer.qkv_bias.push_back((*q_bias)[static_cast<size_t>(row)]);
    for (const int64_t row : k_order) layer.qkv_bias.push_back((*k_bias)[static_cast<size_t>(row)]);
    layer.qkv_bias.insert(layer.qkv_bias.end(), v_bias->begin(), v_bias->end());
  }
  auto output =
      PackOne(prefix + "attn_output.weight", hidden, int64_t{a.num_q_heads} * a.head_dim_v);
  if (!output.ok()) return output.status();
  layer.output = *std::move(output);
  return absl::OkStatus();
}

absl::Status LlamaLoader::LoadFeedForward(const std::string& prefix, DecoderLayer& layer) {
  const int64_t hidden = config_.hidden_size, ffn = config_.ffn_size;
  const auto gate = ReadMatrix(file_, prefix + "ffn_gate.weight", ffn, hidden);
  if (!gate.ok()) return gate.status();
  const auto up = ReadMatrix(file_, prefix + "ffn_up.weight", ffn, hidden);
  if (!up.ok()) return up.status();
  layer.gate_up = Keep(std::array{*gate, *up});
  auto down = PackOne(prefix + "ffn_down.weight", hidden, ffn);
  if (!down.ok()) return down.status();
  layer.down = *std::move(down);
  return absl::OkStatus();
}

absl::Status LlamaLoader::LoadLayer(int index) {
  const std::string prefix = absl::StrCat("blk.", index, ".");
  DecoderLayer& layer = model_.layers.emplace_back();
  auto attention_norm = ReadVector(file_, prefix + "attn_norm.weight", config_.hidden_size);
  if (!attention_norm.ok()) return attention_norm.status();
  layer.attention_norm = *std::move(attention_norm);
  auto ffn_norm = ReadVector(file_, prefix + "ffn_norm.weight", config_.hidden_size);
  if (!ffn_norm.ok()) return ffn_norm.status();
  layer.ffn_norm = *std::move(ffn_norm);
  if (absl::Status status = LoadAttention(prefix, layer); !status.ok()) return status;
  return LoadFeedForward(prefix, layer);
}

absl::Status LlamaLoader::LoadEmbeddingAndHead() {
  const int64_t vocabulary = config_.vocabulary_size, hidden = config_.hidden_size;
  const auto embedding = ReadMatrix(file_, "token_embd.weight", vocabulary, hidden);
  if (!embedding.ok()) return embedding.status();
  model_.embedding = *embedding;
  auto norm = ReadVector(file_, "output_norm.weight", hidden);
  if (!norm.ok()) return norm.status();
  model_.output_norm = *std::move(norm);
  // Without a matrix of its own the output shares the embedding's (tied weights).
  const bool tied = file_.FindTensor("output.weight") == nullptr;
  auto head = PackOne(tied ? "token_embd.weight" : "output.weight", vocabulary, hidden);
  if (!head.ok()) return head.status();
  model_.lm_head = *std::move(head);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ModelConfig> ReadLlamaConfig(const GgufFile& file) {
  ModelConfig config;
  config.family = "llama";
  const auto architecture = file.GetString("general.architecture");
  if (!architecture.ok()) return architecture.status();
  config.architecture = std::string(*architecture);
  if (const auto name = file.GetString("general.name"); name.ok()) config.name = std::string(*name);
  const std::string prefix = config.architecture + ".";
  const auto layers = GetBounded(file, prefix + "block_count", 1, kMaxLayers);
  if (!layers.ok()) return layers.status();
  const auto hidden = GetBounded(file, prefix + "embedding_length", 1, kMaxSize);
  if (!hidden.ok()) return hidden.status();
  const auto ffn = GetBounded(file, prefix + "feed_forward_length", 1, kMaxSize);
  if (!ffn.ok()) return ffn.status();
  const auto context = GetBounded(file, prefix + "context_length", 1, kMaxTrainedContext);
  if (!context.ok()) return context.status();
  const auto epsilon = file.GetFloat(prefix + "attention.layer_norm_rms_epsilon");
  if (!epsilon.ok()) return epsilon.status();
  if (!(*epsilon >= 0 && *epsilon < 1))
    return Invalid(file, "layer_norm_rms_epsilon not in [0, 1)");
  const GgufTensor* embedding = file.FindTensor("token_embd.weight");
  if (embedding == nullptr || embedding->shape.size() != 2 || embedding->shape[0] > INT32_MAX) {
    return Invalid(file, "tensor 'token_embd.weight' is missing or is no matrix");
  }
  if (const auto experts = GetBoundedOr(file, prefix + "expert_count", 0, kMaxSize, 0);
      !experts.ok() || *experts != 0) {
    return absl::UnimplementedError(file.path() +
                                    ": mixture-of-experts llama files are not served");
  }
  config.num_layers = static_cast<int32_t>(*layers);
  config.hidden_size = static_cast<int32_t>(*hidden);
  config.ffn_size = static_cast<int32_t>(*ffn);
  config.vocabulary_size = static_cast<int32_t>(embedding->shape[0]);
  config.rms_norm_epsilon = static_cast<float>(*epsilon);
  config.trained_context = *context;
  int64_t rotary_dim = 0;
  if (absl::Status status = ReadHeads(file, config, rotary_dim); !status.ok()) return status;
  if (absl::Status status = ReadRope(file, rotary_dim, config); !status.ok()) return status;
  CountWeights(file, config);
  return config;
}

absl::StatusOr<std::unique_ptr<Model>> LoadLlama(const GgufFile& file, kernels::Backend& backend,
                                                 const LoadProgress& progress) {
  auto config = ReadLlamaConfig(file);
  if (!config.ok()) return config.status();
  auto model = std::make_unique<Model>();
  model->config = *std::move(config);
  LlamaLoader loader(file, backend, *model);
  const int num_layers = model->config.num_layers;
  for (int i = 0; i < num_layers; ++i) {
    if (absl::Status status = loader.LoadLayer(i); !status.ok()) return status;
    if (progress) progress(static_cast<double>(i + 1) / (num_layers + 1));
  }
  if (absl::Status status = loader.LoadEmbeddingAndHead(); !status.ok()) return status;
  if (progress) progress(1.0);
  return model;
}

}  // namespace nsa::engine
