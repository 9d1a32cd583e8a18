#include "engine/models/minicpm.h"

#include <algorithm>
#include <cmath>
#include <span>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/models/decoder_config.h"

namespace nsa::engine {
namespace {

/// Terms of InfLLM-v2's log-sum-exp: keys compressed once more, four windows to one.
constexpr int kLseWindows = 4;

struct SparseField {
  const char* key;
  int64_t low, high, otherwise;
  int64_t value = 0;
};

absl::Status ReadSparseFields(const ConfigSource& source, std::span<SparseField> fields) {
  for (SparseField& field : fields) {
    const auto value = GetBoundedOr(source, absl::StrCat("sparse_config.", field.key), field.low,
                                    field.high, field.otherwise);
    if (!value.ok()) return value.status();
    field.value = *value;
  }
  return absl::OkStatus();
}

absl::StatusOr<AttentionSpec> ReadSpec(const ConfigSource& source, int64_t trained_context) {
  SparseField fields[] = {{"kernel_size", 1, 1 << 20, 32},   {"kernel_stride", 1, 1 << 20, 16},
                          {"block_size", 1, 1 << 20, 64},    {"init_blocks", 0, 1 << 20, 1},
                          {"window_size", 1, 1 << 30, 2048}, {"topk", 1, 1 << 20, 64},
                          {"dense_len", 0, 1 << 30, 8192}};
  if (absl::Status status = ReadSparseFields(source, fields); !status.ok()) return status;
  const auto& [length, stride, block, initial, window, top_k, dense] = fields;
  const auto nope = GetBoolOr(source, "sparse_config.use_nope", false);
  if (!nope.ok()) return nope.status();
  if (*nope) {
    return absl::UnimplementedError(
        absl::StrCat(source.path(),
                     ": sparse_config.use_nope is true; scores from keys without rotation are "
                     "not served"));
  }
  if (window.value % block.value != 0) {
    return Invalid(source, absl::StrCat("sparse_config.window_size is ", window.value,
                                        ", expected a multiple of block_size ", block.value));
  }
  const int64_t window_blocks = window.value / block.value;
  AttentionSpec spec;
  spec.sparse = true;
  spec.compression_length = static_cast<int>(length.value);
  spec.compression_stride = static_cast<int>(stride.value);
  spec.sel_block_size = static_cast<int>(block.value);
  spec.pooled_keys = kernels::PooledKeys::kRotated;
  spec.lse_windows = kLseWindows;
  spec.block_score = kernels::BlockScore::kOverlapMax;
  spec.group_reduction = kernels::GroupReduction::kSum;
  spec.num_initial_blocks = static_cast<int>(initial.value);
  // The authors' max_pooling_1d forces blocks that begin up to `window_blocks` before the query's
  // own, so one more; their top-k has room for the window's.
  spec.num_local_blocks = static_cast<int>(window_blocks) + 1;
  spec.num_selected_blocks = static_cast<int>(top_k.value + window_blocks);
  spec.window_size = 0;
  spec.combination = Combination::kSelectedAlone;
  spec.dense_length = std::min(dense.value, trained_context + 1);
  if (absl::Status status = Validate(spec); !status.ok()) {
    return absl::Status(status.code(), absl::StrCat(source.path(), ": ", status.message()));
  }
  return spec;
}

absl::Status ReadScales(const ConfigSource& source, ModelConfig& config) {
  const auto embedding = GetFloatOr(source, "scale_emb", 1);
  const auto depth = GetFloatOr(source, "scale_depth", 1);
  const auto base = GetFloatOr(source, "dim_model_base", 1);
  for (const auto* scale : {&embedding, &depth, &base}) {
    if (!scale->ok()) return scale->status();
    if (!(**scale > 0 && **scale < 1e6)) {
      return Invalid(source, absl::StrCat("scale_emb, scale_depth or dim_model_base is ", **scale,
                                          ", expected above 0 and below 1e6"));
    }
  }
  config.embedding_scale = static_cast<float>(*embedding);
  config.residual_scale = static_cast<float>(*depth / std::sqrt(config.num_layers));
  config.logits_scale = static_cast<float>(*base / config.hidden_size);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<DecoderDescription> DescribeMiniCpmFolder(const ModelFolder& folder) {
  const ConfigSource& source = folder.config();
  const auto experts = GetBoundedOr(source, "num_experts", 0, 1 << 20, 0);
  if (!experts.ok() || *experts != 0) {
    return absl::UnimplementedError(
        absl::StrCat(source.path(), ": num_experts is set; mixtures of experts are not served"));
  }
  FolderLayout layout = TransformersLayout();
  layout.tied_by_default = true;
  auto description = DescribeFolder(folder, "minicpm", layout);
  if (!description.ok()) return description.status();
  ModelConfig& config = description->config;
  if (absl::Status status = ReadScales(source, config); !status.ok()) return status;
  // Its long rope has no factor of its own: the authors' code divides the contexts.
  RopeParameters& rope = config.ropes.front();
  if (rope.original_context > 0) {
    rope.factor =
        std::max(1.0, static_cast<double>(config.trained_context) / rope.original_context);
  }
  if (!source.Has("sparse_config")) return description;
  auto spec = ReadSpec(source, config.trained_context);
  if (!spec.ok()) return spec.status();
  config.native_attention = *spec;
  return description;
}

}  // namespace nsa::engine
