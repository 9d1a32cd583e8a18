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
  for (const std::string_view key : {"hidden_act", "hidden_activation"}) {
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

absl::Status ReadFolderRope(const ConfigSource& config, ModelConfig& model) {
  RopeParameters& rope = model.ropes.front();
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
  if (rope.rotary_dim % 2 != 0) {
    return Invalid(config,
                   absl::StrCat(rope.rotary_dim, " rotated dimensions, expected an even number"));
  }
  if (absl::Status status = ReadRopeParameters(config, "", rope); !status.ok()) return status;
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

}  // namespace

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
  return DescribeFolder(folder, family,
                        FolderLayout{.keys = TransformersKeys(), .names = TransformersNames()});
}

absl::StatusOr<DecoderDescription> DescribeFolder(const ModelFolder& folder,
                                                  std::string_view family,
                                                  const FolderLayout& layout) {
  DecoderDescription description{.config = {}, .names = layout.names};
  ModelConfig& config = description.config;
  const ConfigSource& source = folder.config();
  config.family = std::string(family);
  const auto architecture = source.GetString("model_type");
  if (!architecture.ok()) return architecture.status();
  config.architecture = std::string(*architecture);
  config.name = std::filesystem::path(folder.path()).lexically_normal().filename().string();
  if (source.Has("quantization_config")) {
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
  const auto tied = GetBoolOr(source, "tie_word_embeddings", false);
  if (!tied.ok()) return tied.status();
  config.tied_embeddings = *tied;
  if (absl::Status status = ReadFolderRope(source, config); !status.ok()) return status;
  if (absl::Status status = ReadLayerTypes(source, config); !status.ok()) return status;
  return description;
}

}  // namespace nsa::engine
