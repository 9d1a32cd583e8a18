#ifndef NSA_ENGINE_MODELS_FAMILY_H_
#define NSA_ENGINE_MODELS_FAMILY_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/models/decoder_config.h"
#include "engine/models/decoder_names.h"
#include "engine/models/model.h"
#include "engine/weights/gguf.h"
#include "engine/weights/model_folder.h"

namespace nsa::engine {

/// A checkpoint's model before any weight is packed.
struct DecoderDescription {
  ModelConfig config;
  DecoderNames names;
};

/// A family file's entry points.
struct Family {
  /// GGUF's general.architecture; empty: not served from GGUF.
  std::string_view architecture;
  absl::StatusOr<DecoderDescription> (*from_gguf)(const GgufFile&);
  /// config.json's model_type; empty: not served from folders.
  std::string_view model_type;
  absl::StatusOr<DecoderDescription> (*from_folder)(const ModelFolder&);
};

/// What all GGUF families read alike: names, sizes, rope and its scaling.
absl::StatusOr<DecoderDescription> DescribeGguf(const GgufFile& file, std::string_view family);
/// What folders in the layout of Llama's port in transformers read alike; layers with windows by
/// `layer_types`.
absl::StatusOr<DecoderDescription> DescribeFolder(const ModelFolder& folder,
                                                  std::string_view family);

/// Whether a linear layer has a bias, by a flag of the configuration.
struct BiasRule {
  std::string key;         // empty: always `otherwise`
  bool otherwise = false;  // without the key
  std::string tensor;      // of a layer, as DecoderNames has it
};

/// Where a folder departs from that layout.
struct FolderLayout {
  DecoderKeys keys;
  DecoderNames names;
  // Sizes that the tensors say better than the configuration; 0: by their keys.
  int32_t ffn_size = 0;
  int32_t q_rows = 0;  // num_q_heads · head_dim_k
  // A part of config.json, for checkpoints of more than text; null: all of it.
  const JsonConfig* config = nullptr;
  bool tied_by_default = false;
  std::vector<BiasRule> biases = {};
  // Of the first rope: its name below rope_parameters where layers differ, and theta's default.
  std::string rope_layer_type = "";
  double rope_theta = 10000;
};
/// Llama's own: TransformersKeys, TransformersNames and biases by `attention_bias`.
FolderLayout TransformersLayout();
absl::StatusOr<DecoderDescription> DescribeFolder(const ModelFolder& folder,
                                                  std::string_view family,
                                                  const FolderLayout& layout);

}  // namespace nsa::engine

#endif  // NSA_ENGINE_MODELS_FAMILY_H_
