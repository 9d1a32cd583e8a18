#include "engine/models/decoder_loader.h"

#include <algorithm>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/weights/mapped_file.h"
#include "engine/weights/weight_reader.h"
#include "kernels/quant.h"

namespace nsa::engine {
namespace {

constexpr int64_t kQuantBlock = 32;

/// Row order that turns interleaved rotary pairs (2i, 2i + 1) into half-split pairs
/// (i, i + rotary_dim/2), head by head.
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

kernels::WeightType TargetType(WeightDtype dtype, const kernels::WeightMatrix& matrix) {
  const bool dense = kernels::FindWeightBlock(matrix.type)->num_elements == 1;
  if (!dense || dtype == WeightDtype::kAuto) return matrix.type;
  if (dtype == WeightDtype::kBF16) return kernels::WeightType::kBF16;
  if (matrix.num_columns % kQuantBlock != 0) return matrix.type;
  return dtype == WeightDtype::kQ8_0 ? kernels::WeightType::kQ8_0 : kernels::WeightType::kQ4_0;
}

/// Reads and packs one checkpoint's tensors.
class Loader {
 public:
  Loader(const WeightMap& weights, const DecoderNames& names, WeightDtype dtype,
         kernels::Backend& backend, Model& model)
      : weights_(weights),
        names_(names),
        dtype_(dtype),
        backend_(backend),
        model_(model),
        config_(model.config) {}

  absl::Status LoadLayer(int index);
  absl::Status LoadEmbeddingAndHead();

 private:
  /// One part of a packed matrix: a tensor, and in which order its rows go in.
  struct Part {
    std::string name;
    int64_t num_rows;
    std::vector<int64_t> order;  // empty: as they are
  };
  using Packed = std::unique_ptr<kernels::PackedMatrix>;

  bool Has(const std::string& name, const char* suffix) const {
    return weights_.Find(absl::StrCat(name, suffix)) != nullptr;
  }

  absl::Status Pack(const std::vector<Part>& parts, int64_t num_columns, Packed& packed);
  absl::Status ReadBiases(const std::vector<Part>& parts, kernels::Array<float>& biases) const;
  absl::Status ReadNorm(const std::string& name, int64_t size, float scale,
                        kernels::Array<float>& norm) const;
  absl::Status LoadNorms(const std::string& prefix, DecoderLayer& layer) const;
  absl::Status LoadAttention(const std::string& prefix, DecoderLayer& layer);
  absl::Status LoadGates(const std::string& prefix, DecoderLayer& layer);
  absl::Status LoadPerceptron(const std::string& name, int head_dim,
                              std::optional<WindowPerceptron>& phi);
  absl::Status LoadFeedForward(const std::string& prefix, DecoderLayer& layer);

  const WeightMap& weights_;
  const DecoderNames& names_;
  WeightDtype dtype_;
  kernels::Backend& backend_;
  Model& model_;
  const ModelConfig& config_;
};

absl::Status Loader::Pack(const std::vector<Part>& parts, int64_t num_columns, Packed& packed) {
  std::vector<OwnedMatrix> owned;  // what is not packed as the file has it
  owned.reserve(2 * parts.size());
  std::vector<kernels::WeightMatrix> sources, matrices;
  for (const Part& part : parts) {
    const auto source =
        ReadMatrix(weights_, absl::StrCat(part.name, ".weight"), part.num_rows, num_columns);
    if (!source.ok()) return source.status();
    sources.push_back(*source);
    matrices.push_back(*source);
    if (!part.order.empty()) {
      owned.push_back(PermuteRows(matrices.back(), part.order));
      matrices.back() = owned.back().matrix;
    }
    if (const auto type = TargetType(dtype_, *source); type != source->type) {
      owned.push_back(ConvertMatrix(matrices.back(), type));
      matrices.back() = owned.back().matrix;
    }
  }
  packed = backend_.Pack(matrices);
  model_.packed_bytes += packed->num_bytes();
  for (const kernels::WeightMatrix& source : sources) {
    ReleaseMapped(source.data,
                  source.num_rows * kernels::RowBytes(source.type, source.num_columns));
  }
  return absl::OkStatus();
}

/// All parts have a bias, or none has: [sum of num_rows], or empty.
absl::Status Loader::ReadBiases(const std::vector<Part>& parts,
                                kernels::Array<float>& biases) const {
  const bool any =
      std::ranges::any_of(parts, [&](const Part& part) { return Has(part.name, ".bias"); });
  if (!any) return absl::OkStatus();
  std::vector<float> values;
  for (const Part& part : parts) {
    const auto bias = ReadVector(weights_, absl::StrCat(part.name, ".bias"), part.num_rows);
    if (!bias.ok()) return bias.status();
    if (part.order.empty()) values.insert(values.end(), bias->begin(), bias->end());
    for (const int64_t row : part.order) values.push_back((*bias)[static_cast<size_t>(row)]);
  }
  biases = kernels::Array<float>(backend_, values);
  return absl::OkStatus();
}

/// The weight is multiplied by `scale`.
absl::Status Loader::ReadNorm(const std::string& name, int64_t size, float scale,
                              kernels::Array<float>& norm) const {
  auto weight = ReadVector(weights_, absl::StrCat(name, ".weight"), size);
  if (!weight.ok()) return weight.status();
  for (float& element : *weight) element = (element + names_.norm_offset) * scale;
  norm = kernels::Array<float>(backend_, *weight);
  return absl::OkStatus();
}

absl::Status Loader::LoadNorms(const std::string& prefix, DecoderLayer& layer) const {
  struct Norm {
    const std::string& name;
    int64_t size;
    kernels::Array<float>& target;
  };
  const int64_t hidden = config_.hidden_size, head = config_.attention.head_dim_k;
  const Norm norms[] = {{names_.attention_norm, hidden, layer.attention_norm},
                        {names_.q_norm, head, layer.q_norm},
                        {names_.k_norm, head, layer.k_norm},
                        {names_.post_attention_norm, hidden, layer.post_attention_norm},
                        {names_.ffn_norm, hidden, layer.ffn_norm},
                        {names_.post_ffn_norm, hidden, layer.post_ffn_norm}};
  for (const Norm& norm : norms) {
    if (norm.name.empty()) continue;
    const std::string name = absl::StrCat(prefix, norm.name);
    if (absl::Status status = ReadNorm(name, norm.size, 1, norm.target); !status.ok())
      return status;
  }
  return absl::OkStatus();
}

absl::Status Loader::LoadAttention(const std::string& prefix, DecoderLayer& layer) {
  const AttentionShape& a = config_.attention;
  const int64_t hidden = config_.hidden_size;
  std::vector<Part> qkv = {
      {absl::StrCat(prefix, names_.q), int64_t{a.num_q_heads} * a.head_dim_k, {}}};
  const std::vector<KvNames> shared = {{names_.k, names_.v}};
  for (const KvNames& kv : names_.branch_kv.empty() ? shared : names_.branch_kv) {
    qkv.push_back({absl::StrCat(prefix, kv.k), int64_t{a.num_kv_heads} * a.head_dim_k, {}});
    qkv.push_back({absl::StrCat(prefix, kv.v), int64_t{a.num_kv_heads} * a.head_dim_v, {}});
  }
  if (names_.interleaved_rope) {
    const int rotary = config_.ropes.front().rotary_dim;
    qkv[0].order = HalfSplitOrder(a.num_q_heads, a.head_dim_k, rotary);
    qkv[1].order = HalfSplitOrder(a.num_kv_heads, a.head_dim_k, rotary);
  }
  if (absl::Status s = Pack(qkv, hidden, layer.qkv); !s.ok()) return s;
  if (absl::Status s = ReadBiases(qkv, layer.qkv_bias); !s.ok()) return s;
  const std::vector<Part> output = {{absl::StrCat(prefix, names_.output), hidden, {}}};
  if (absl::Status s = Pack(output, int64_t{a.num_q_heads} * a.head_dim_v, layer.output); !s.ok()) {
    return s;
  }
  if (absl::Status s = ReadBiases(output, layer.output_bias); !s.ok()) return s;
  if (!names_.compress_k.empty()) {
    for (const bool keys : {true, false}) {
      const std::string name = absl::StrCat(prefix, keys ? names_.compress_k : names_.compress_v);
      if (absl::Status s = LoadPerceptron(name, keys ? a.head_dim_k : a.head_dim_v,
                                          keys ? layer.compress_k : layer.compress_v);
          !s.ok()) {
        return s;
      }
    }
  }
  return names_.gates.empty() ? absl::OkStatus() : LoadGates(prefix, layer);
}

absl::Status Loader::LoadGates(const std::string& prefix, DecoderLayer& layer) {
  int64_t columns = config_.hidden_size;
  if (!names_.gate_hidden.empty()) {
    const std::vector<Part> first = {
        {absl::StrCat(prefix, names_.gate_hidden), config_.gate_hidden_size, {}}};
    if (absl::Status s = Pack(first, columns, layer.gate_hidden); !s.ok()) return s;
    if (absl::Status s = ReadBiases(first, layer.gate_hidden_bias); !s.ok()) return s;
    columns = config_.gate_hidden_size;
  }
  const int64_t rows = int64_t{config_.attention.num_q_heads} * kernels::kMaxBranches;
  const std::vector<Part> gates = {{absl::StrCat(prefix, names_.gates), rows, {}}};
  if (absl::Status s = Pack(gates, columns, layer.gates); !s.ok()) return s;
  return ReadBiases(gates, layer.gates_bias);
}

absl::Status Loader::LoadPerceptron(const std::string& name, int head_dim,
                                    std::optional<WindowPerceptron>& phi) {
  phi.emplace();
  phi->activation = config_.activation;
  const int length = config_.native_attention->compression_length;
  const int64_t hidden = config_.compress_hidden_size;
  auto position = ReadMatrixFloats(weights_, absl::StrCat(name, ".position"), length, head_dim);
  if (!position.ok()) return position.status();
  phi->position = kernels::Array<float>(backend_, *position);
  const std::vector<Part> up = {{absl::StrCat(name, ".up_proj"), hidden, {}}};
  if (absl::Status s = Pack(up, int64_t{length} * head_dim, phi->up); !s.ok()) return s;
  if (absl::Status s = ReadBiases(up, phi->up_bias); !s.ok()) return s;
  const std::vector<Part> down = {{absl::StrCat(name, ".down_proj"), head_dim, {}}};
  if (absl::Status s = Pack(down, hidden, phi->down); !s.ok()) return s;
  return ReadBiases(down, phi->down_bias);
}

absl::Status Loader::LoadFeedForward(const std::string& prefix, DecoderLayer& layer) {
  const int64_t hidden = config_.hidden_size, ffn = config_.ffn_size;
  const std::vector<Part> gate_up = {{absl::StrCat(prefix, names_.gate), ffn, {}},
                                     {absl::StrCat(prefix, names_.up), ffn, {}}};
  if (absl::Status s = Pack(gate_up, hidden, layer.gate_up); !s.ok()) return s;
  if (absl::Status s = ReadBiases(gate_up, layer.gate_up_bias); !s.ok()) return s;
  const std::vector<Part> down = {{absl::StrCat(prefix, names_.down), hidden, {}}};
  if (absl::Status s = Pack(down, ffn, layer.down); !s.ok()) return s;
  return ReadBiases(down, layer.down_bias);
}

absl::Status Loader::LoadLayer(int index) {
  const std::string prefix = absl::StrCat(names_.layer_prefix, index, ".");
  DecoderLayer& layer = model_.layers.emplace_back();
  if (absl::Status status = LoadNorms(prefix, layer); !status.ok()) return status;
  if (absl::Status status = LoadAttention(prefix, layer); !status.ok()) return status;
  return LoadFeedForward(prefix, layer);
}

absl::Status Loader::LoadEmbeddingAndHead() {
  const int64_t vocabulary = config_.vocabulary_size, hidden = config_.hidden_size;
  const auto embedding =
      ReadMatrix(weights_, absl::StrCat(names_.embedding, ".weight"), vocabulary, hidden);
  if (!embedding.ok()) return embedding.status();
  model_.embedding = backend_.Store(*embedding);
  // The output matrix is linear: its input scaled is its output scaled.
  if (absl::Status status =
          ReadNorm(names_.output_norm, hidden, config_.logits_scale, model_.output_norm);
      !status.ok()) {
    return status;
  }
  // Without a matrix of its own the output shares the embedding's (tied weights).
  const bool tied = config_.tied_embeddings || !Has(names_.head, ".weight");
  return Pack({{tied ? names_.embedding : names_.head, vocabulary, {}}}, hidden, model_.lm_head);
}

}  // namespace

absl::StatusOr<std::unique_ptr<Model>> LoadDecoder(const WeightMap& weights, ModelConfig config,
                                                   const DecoderNames& names, WeightDtype dtype,
                                                   kernels::Backend& backend,
                                                   const LoadProgress& progress) {
  auto model = std::make_unique<Model>();
  model->config = std::move(config);
  Loader loader(weights, names, dtype, backend, *model);
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
