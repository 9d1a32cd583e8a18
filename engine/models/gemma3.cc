#include "engine/models/gemma3.h"

#include <cmath>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/models/decoder_config.h"

namespace nsa::engine {
namespace {

constexpr double kGlobalTheta = 1e6;
constexpr double kLocalTheta = 1e4;
constexpr int64_t kWindowPattern = 6;  // every so manyeth layer has full attention
constexpr double kQueryScalar = 256;
// The fields that folders with images leave out of text_config, as their port in transformers has
// them by default.
constexpr std::string_view kTextDefaults =
    R"({"vocab_size": 262208, "hidden_size": 2304, "intermediate_size": 9216,
        "num_hidden_layers": 26, "num_attention_heads": 8, "num_key_value_heads": 4,
        "head_dim": 256, "max_position_embeddings": 131072, "rms_norm_eps": 1e-6,
        "sliding_window": 4096})";
constexpr int kGlobalRope = 0, kLocalRope = 1;

/// What files do not say, as every Gemma 3 has it.
void SetConstants(ModelConfig& config) {
  config.activation = kernels::GateActivation::kGeluTanh;
  config.embedding_scale = static_cast<float>(std::sqrt(static_cast<double>(config.hidden_size)));
}

/// Layers with a window turn by the local rotation.
void SetWindows(int64_t pattern, int64_t window, ModelConfig& config) {
  for (size_t i = 0; i < config.layers.size(); ++i) {
    const bool full = (static_cast<int64_t>(i) + 1) % pattern == 0;
    config.layers[i] = {.rope_index = full ? kGlobalRope : kLocalRope,
                        .window_size = full ? 0 : window};
  }
}

RopeParameters LocalRope(const ModelConfig& config) {
  RopeParameters rope;
  rope.theta = kLocalTheta;
  rope.rotary_dim = config.ropes.front().rotary_dim;
  rope.trained_context = config.trained_context;
  return rope;
}

/// Before transformers 5 the scaling was of the full layers alone.
absl::Status AddLocalRope(const ConfigSource& source, ModelConfig& config) {
  RopeParameters local = LocalRope(config);
  if (source.Has("rope_parameters")) {
    if (auto s = ReadRopeParameters(source, "sliding_attention", local); !s.ok()) return s;
  }
  // A rope_theta at the top is of the full layers.
  if (!source.Has("rope_parameters.sliding_attention.rope_theta")) {
    const auto theta = GetFloatOr(source, "rope_local_base_freq", kLocalTheta);
    if (!theta.ok()) return theta.status();
    local.theta = *theta;
  }
  config.ropes.push_back(std::move(local));
  return absl::OkStatus();
}

absl::Status CheckPublished(const ConfigSource& source) {
  for (const char* key : {"attn_logit_softcapping", "final_logit_softcapping"}) {
    if (!source.Has(key)) continue;
    return absl::UnimplementedError(
        absl::StrCat(source.path(), ": ", key, " is set; no Gemma 3 was published with it"));
  }
  const auto both = GetBoolOr(source, "use_bidirectional_attention", false);
  if (!both.ok()) return both.status();
  if (!*both) return absl::OkStatus();
  return absl::UnimplementedError(absl::StrCat(
      source.path(), ": use_bidirectional_attention: embedding models are not served"));
}

absl::Status ReadScale(const ConfigSource& source, ModelConfig& config) {
  constexpr double kLeast = 1e-3, kMost = 1e6;
  const auto scalar = GetFloatOr(source, "query_pre_attn_scalar", kQueryScalar);
  if (!scalar.ok()) return scalar.status();
  if (!(*scalar >= kLeast && *scalar <= kMost)) {
    return Invalid(source, absl::StrCat("query_pre_attn_scalar is ", *scalar, ", expected ", kLeast,
                                        " to ", kMost));
  }
  config.attention.scale = static_cast<float>(1 / std::sqrt(*scalar));
  return absl::OkStatus();
}

absl::StatusOr<DecoderDescription> DescribeText(const ModelFolder& folder, const JsonConfig& source,
                                                FolderLayout layout) {
  layout.config = &source;
  layout.tied_by_default = true;
  layout.rope_layer_type = "full_attention";
  layout.rope_theta = kGlobalTheta;
  auto description = DescribeFolder(folder, "gemma3", layout);
  if (!description.ok()) return description.status();
  if (auto s = CheckPublished(source); !s.ok()) return s;
  ModelConfig& config = description->config;
  const auto activation = config.activation;
  SetConstants(config);
  if (source.Has("hidden_activation")) config.activation = activation;
  DecoderNames& names = description->names;
  names.q_norm = "self_attn.q_norm";
  names.k_norm = "self_attn.k_norm";
  names.post_attention_norm = "post_attention_layernorm";
  names.ffn_norm = "pre_feedforward_layernorm";
  names.post_ffn_norm = "post_feedforward_layernorm";
  names.norm_offset = 1;
  if (auto s = ReadScale(source, config); !s.ok()) return s;
  if (auto s = AddLocalRope(source, config); !s.ok()) return s;
  if (source.Has("layer_types")) {
    for (LayerAttention& layer : config.layers) {
      layer.rope_index = layer.window_size > 0 ? kLocalRope : kGlobalRope;
    }
    return description;
  }
  const auto window = GetBounded(source, "sliding_window", 1, int64_t{1} << 30);
  if (!window.ok()) return window.status();
  const auto pattern = GetBoundedOr(source, "sliding_window_pattern", 1, 1024, kWindowPattern);
  if (!pattern.ok()) return pattern.status();
  SetWindows(*pattern, *window, config);
  return description;
}

}  // namespace

absl::StatusOr<DecoderDescription> DescribeGemma3Gguf(const GgufFile& file) {
  auto description = DescribeGguf(file, "gemma3");
  if (!description.ok()) return description.status();
  ModelConfig& config = description->config;
  SetConstants(config);
  DecoderNames& names = description->names;
  names.q_norm = "attn_q_norm";
  names.k_norm = "attn_k_norm";
  names.post_attention_norm = "post_attention_norm";
  names.post_ffn_norm = "post_ffw_norm";
  const std::string prefix = absl::StrCat(config.architecture, ".");
  const auto window = GetBounded(file, prefix + "attention.sliding_window", 1, int64_t{1} << 30);
  if (!window.ok()) return window.status();
  const auto pattern =
      GetBoundedOr(file, prefix + "attention.sliding_window_pattern", 1, 1024, kWindowPattern);
  if (!pattern.ok()) return pattern.status();
  RopeParameters local = LocalRope(config);
  if (auto theta = GetFloatOr(file, prefix + "rope.freq_base_swa", kLocalTheta); theta.ok()) {
    local.theta = *theta;
  } else {
    return theta.status();
  }
  config.ropes.push_back(local);
  SetWindows(*pattern, *window, config);
  // The largest Gemma 3 alone divides by the share of a head in hidden_size; its file does not say.
  if (config.num_layers == 62) {
    config.attention.scale = static_cast<float>(
        1 / std::sqrt(static_cast<double>(config.hidden_size) / config.attention.num_q_heads));
  }
  return description;
}

absl::StatusOr<DecoderDescription> DescribeGemma3Folder(const ModelFolder& folder) {
  return DescribeText(folder, folder.config(), TransformersLayout());
}

absl::StatusOr<DecoderDescription> DescribeGemma3ImageFolder(const ModelFolder& folder) {
  const auto text = folder.config().Section("text_config", kTextDefaults);
  if (!text.ok()) return text.status();
  FolderLayout layout = TransformersLayout();
  DecoderNames& names = layout.names;
  // Names as published, or as transformers writes them since version 4.52.
  const bool published = folder.weights().Find("language_model.model.norm.weight") != nullptr;
  const std::string prefix = published ? "language_model.model." : "model.language_model.";
  names.embedding = prefix + "embed_tokens";
  names.output_norm = prefix + "norm";
  names.layer_prefix = prefix + "layers.";
  names.head = published ? "language_model.lm_head" : "lm_head";
  return DescribeText(folder, *text, std::move(layout));
}

}  // namespace nsa::engine
