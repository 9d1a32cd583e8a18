#include "engine/models/family.h"

#include <algorithm>
#include <filesystem>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/models/decoder_config.h"
#include "engine/text.h"
#include "engine/weights/byte_cursor.h"
#include "engine/weights/weight_reader.h"

namespace nsa::engine {
namespace {

constexpr double kMaxStretchedContext = 1 << 24;  // tokens, as config.json may claim without it

absl::StatusOr<kernels::GateActivation> ReadActivation(const ConfigSource& config) {
  for (const std::string_view key : {"hidden_activation", "hidden_act"}) {
    if (!config.Has(key)) continue;
    const auto word = config.GetString(key);
    if (!word.ok()) return word.status();
    if (*word == "silu" || *word == "swish") return kernels::GateActivation::kSilu;
    if (*word == "gelu_pytorch_tanh" || *word == "gelu_new") {
      return kernels::GateActivation::kGeluTanh;
    }
    return absl::UnimplementedError(
        absl::StrCat(config.path(), ": ", View(key), " is ", Quoted(*word),
                     "; this server knows: silu, swish, gelu_pytorch_tanh, gelu_new"));
  }
  return kernels::GateActivation::kSilu;
}

/// `layer_types`, a word for each layer.
absl::Status ReadLayerTypes(const ConfigSource& config, ModelConfig& model) {
  if (!config.Has("layer_types")) return absl::OkStatus();
  const auto types = config.GetStrings("layer_types");
  if (!types.ok()) return types.status();
  if (types->size() != model.layers.size()) {
    return Invalid(config, absl::StrCat("layer_types has ", types->size(), " words, expected ",
                                        model.layers.size(), ", one for each layer"));
  }
  for (size_t i = 0; i < types->size(); ++i) {
    if ((*types)[i] == "full_attention") continue;
    if ((*types)[i] != "sliding_attention") {
      return absl::UnimplementedError(
          absl::StrCat(config.path(), ": layer_types[", i, "] is ", Quoted((*types)[i]),
                       "; this server knows: full_attention, sliding_attention"));
    }
    const auto window = GetBounded(config, "sliding_window", 1, int64_t{1} << 30);
    if (!window.ok()) return window.status();
    model.layers[i].window_size = *window;
  }
  return absl::OkStatus();
}

absl::Status ReadFolderRope(const ConfigSource& config, const FolderLayout& layout,
                            ModelConfig& model) {
  RopeParameters& rope = model.ropes.front();
  rope.theta = layout.rope_theta;
  for (const std::string_view key :
       {"partial_rotary_factor", "rope_parameters.partial_rotary_factor"}) {
    const auto part = GetFloatOr(config, key, 1);
    if (!part.ok()) return part.status();
    if (!(*part > 0 && *part <= 1)) {
      return Invalid(config,
                     absl::StrCat(View(key), " is ", *part, ", expected above 0, at most 1"));
    }
    if (config.Has(key)) rope.rotary_dim = static_cast<int>(model.attention.head_dim_k * *part);
  }
  if (rope.rotary_dim < 2 || rope.rotary_dim % 2 != 0) {
    return Invalid(config, absl::StrCat(rope.rotary_dim,
                                        " rotated dimensions, expected an even number above 0"));
  }
  if (absl::Status status = ReadRopeParameters(config, layout.rope_layer_type, rope);
      !status.ok()) {
    return status;
  }
  // A stretched checkpoint serves as far as it was stretched, whatever max_position_embeddings
  // says.
  if (rope.type == "yarn" && rope.original_context > 0) {
    const double stretched = rope.original_context * rope.factor;
    if (!(stretched < kMaxStretchedContext)) {
      return Invalid(config, absl::StrCat("YaRN stretches to ", stretched,
                                          " tokens, expected below ", kMaxStretchedContext));
    }
    model.trained_context = std::max(model.trained_context, static_cast<int64_t>(stretched));
  }
  return absl::OkStatus();
}

/// What the flags say and what the file has must agree: the reference would leave out a bias that
/// is denied, and draw one that is missing at random.
absl::Status CheckBiases(const ConfigSource& config, const WeightMap& weights,
                         const FolderLayout& layout) {
  for (const BiasRule& rule : layout.biases) {
    const auto wanted =
        rule.key.empty() ? rule.otherwise : GetBoolOr(config, rule.key, rule.otherwise);
    if (!wanted.ok()) return wanted.status();
    const std::string name = absl::StrCat(layout.names.layer_prefix, "0.", rule.tensor, ".bias");
    if ((weights.Find(name) != nullptr) == *wanted) continue;
    return Invalid(config, absl::StrCat("tensor '", name, *wanted ? "' is missing" : "' is there",
                                        ", but ", rule.key.empty() ? "this family" : rule.key,
                                        *wanted ? " wants it" : " denies it"));
  }
  return absl::OkStatus();
}

/// Weights of more layers than the configuration counts would be a model cut short.
absl::Status CheckDepth(const ConfigSource& config, const WeightMap& weights,
                        const FolderLayout& layout, int32_t num_layers) {
  const std::string next = absl::StrCat(layout.names.layer_prefix, num_layers, ".",
                                        layout.names.attention_norm, ".weight");
  if (weights.Find(next) == nullptr) return absl::OkStatus();
  return Invalid(config, absl::StrCat("tensor '", next, "' is there, but ", layout.keys.num_layers,
                                      " is ", num_layers));
}

/// `tie_word_embeddings`; without it the output needs a matrix of its own, which the reference
/// would otherwise draw at random.
absl::Status ReadTied(const ConfigSource& config, const WeightMap& weights,
                      const FolderLayout& layout, ModelConfig& model) {
  const auto tied = GetBoolOr(config, "tie_word_embeddings", layout.tied_by_default);
  if (!tied.ok()) return tied.status();
  model.tied_embeddings = *tied;
  const std::string head = absl::StrCat(layout.names.head, ".weight");
  if (*tied || weights.Find(head) != nullptr) return absl::OkStatus();
  return absl::NotFoundError(absl::StrCat(weights.origin(), ": tensor '", head,
                                          "' is missing, and tie_word_embeddings is not set"));
}

}  // namespace

FolderLayout TransformersLayout() {
  FolderLayout layout;
  layout.keys = TransformersKeys();
  layout.names = TransformersNames();
  layout.biases = {{"attention_bias", false, layout.names.q},
                   {"attention_bias", false, layout.names.output}};
  return layout;
}

absl::StatusOr<DecoderDescription> DescribeGguf(const GgufFile& file, std::string_view family) {
  DecoderDescription description{.config = {}, .names = GgufNames()};
  ModelConfig& config = description.config;
  config.family = std::string(family);
  const auto architecture = file.GetString("general.architecture");
  if (!architecture.ok()) return architecture.status();
  config.architecture = std::string(*architecture);
  if (const auto name = file.GetString("general.name"); name.ok()) config.name = std::string(*name);
  if (absl::Status status = ReadDecoderSizes(file, GgufKeys(*architecture), file.weights(),
                                             description.names.embedding, /*q_rows=*/0, config);
      !status.ok()) {
    return status;
  }
  for (const char* key : {"attention.scale", "attention.clamp_kqv", "attn_logit_softcapping",
                          "final_logit_softcapping"}) {
    const auto value = GetFloatOr(file, absl::StrCat(config.architecture, ".", key), 0);
    if (!value.ok()) return value.status();
    if (*value == 0) continue;
    return absl::UnimplementedError(absl::StrCat(file.path(), ": ", config.architecture, ".", key,
                                                 " is ", *value, ", which is not served"));
  }
  const auto experts =
      GetBoundedOr(file, absl::StrCat(config.architecture, ".expert_count"), 0, 1 << 20, 0);
  if (!experts.ok() || *experts != 0) {
    return absl::UnimplementedError(absl::StrCat(file.path(), ": mixture-of-experts ",
                                                 config.architecture, " files are not served"));
  }
  RopeParameters& rope = config.ropes.front();
  if (absl::Status status = ReadGgufRopeParameters(file, config.architecture, rope); !status.ok()) {
    return status;
  }
  // Llama 3's scaling comes as one divisor for each frequency.
  if (file.weights().Find("rope_freqs.weight") != nullptr) {
    const auto divisors = ReadVector(file.weights(), "rope_freqs.weight", rope.rotary_dim / 2);
    if (!divisors.ok()) return divisors.status();
    rope.frequency_divisors.assign(divisors->begin(), divisors->end());
  }
  return description;
}

absl::StatusOr<DecoderDescription> DescribeFolder(const ModelFolder& folder,
                                                  std::string_view family) {
  return DescribeFolder(folder, family, TransformersLayout());
}

absl::StatusOr<DecoderDescription> DescribeFolder(const ModelFolder& folder,
                                                  std::string_view family,
                                                  const FolderLayout& layout) {
  DecoderDescription description{.config = {}, .names = layout.names};
  ModelConfig& config = description.config;
  const ConfigSource& source = layout.config != nullptr ? *layout.config : folder.config();
  config.family = std::string(family);
  const auto architecture = folder.config().GetString("model_type");
  if (!architecture.ok()) return architecture.status();
  config.architecture = std::string(*architecture);
  config.name = std::filesystem::path(folder.path()).lexically_normal().filename().string();
  if (folder.config().Has("quantization_config") || source.Has("quantization_config")) {
    return absl::UnimplementedError(
        absl::StrCat(source.path(),
                     ": quantization_config: folders with quantised weights are not served; "
                     "take the unquantised checkpoint with --weight_dtype, or a GGUF file"));
  }
  config.ffn_size = layout.ffn_size;
  if (absl::Status status = ReadDecoderSizes(source, layout.keys, folder.weights(),
                                             description.names.embedding, layout.q_rows, config);
      !status.ok()) {
    return status;
  }
  const auto activation = ReadActivation(source);
  if (!activation.ok()) return activation.status();
  config.activation = *activation;
  const WeightMap& weights = folder.weights();
  if (absl::Status s = CheckDepth(source, weights, layout, config.num_layers); !s.ok()) return s;
  if (absl::Status s = ReadTied(source, weights, layout, config); !s.ok()) return s;
  if (absl::Status s = CheckBiases(source, weights, layout); !s.ok()) return s;
  if (absl::Status s = ReadFolderRope(source, layout, config); !s.ok()) return s;
  if (absl::Status status = ReadLayerTypes(source, config); !status.ok()) return status;
  return description;
}

}  // namespace nsa::engine
