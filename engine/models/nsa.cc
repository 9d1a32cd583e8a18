#include "engine/models/nsa.h"

#include <filesystem>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/models/decoder_config.h"

namespace nsa::engine {
namespace {

/// block_size, block_counts, window_size; forced blocks are the family's.
absl::StatusOr<AttentionSpec> ReadSpec(const ConfigSource& source, int num_initial_blocks,
                                       int num_local_blocks) {
  const auto block = GetBounded(source, "block_size", 1, 1 << 20);
  if (!block.ok()) return block.status();
  const auto count = GetBounded(source, "block_counts", 1, 1 << 20);
  if (!count.ok()) return count.status();
  const auto window = GetBounded(source, "window_size", 1, int64_t{1} << 30);
  if (!window.ok()) return window.status();
  AttentionSpec spec;
  spec.sparse = true;
  spec.compression_length = spec.compression_stride = spec.sel_block_size =
      static_cast<int>(*block);
  spec.compressed_values = true;
  spec.pooled_keys = kernels::PooledKeys::kRotated;
  spec.group_reduction = kernels::GroupReduction::kMean;
  spec.num_selected_blocks = static_cast<int>(*count);
  spec.num_initial_blocks = num_initial_blocks;
  spec.num_local_blocks = num_local_blocks;
  spec.window_size = *window;
  spec.combination = Combination::kGates;
  if (absl::Status status = Validate(spec); !status.ok()) {
    return absl::Status(status.code(), absl::StrCat(source.path(), ": ", status.message()));
  }
  return spec;
}

DecoderNames FlaNames() {
  DecoderNames names = TransformersNames();
  names.embedding = "model.embeddings";
  names.attention_norm = "attn_norm";
  names.q = "attn.q_proj";
  names.k = "attn.k_proj";
  names.v = "attn.v_proj";
  names.output = "attn.o_proj";
  names.gates = "attn.g_proj";
  names.ffn_norm = "mlp_norm";
  return names;
}

/// The rows of a matrix of the first layer, in [1, 2^20].
absl::StatusOr<int32_t> RowsOf(const WeightMap& weights, const std::string& name) {
  const std::string tensor_name = absl::StrCat("model.layers.0.", name, ".weight");
  const WeightTensor* tensor = weights.Find(tensor_name);
  if (tensor == nullptr || tensor->shape.size() != 2 || tensor->shape[0] < 1 ||
      tensor->shape[0] > (1 << 20)) {
    return absl::InvalidArgumentError(absl::StrCat(weights.origin(), ": tensor '", tensor_name,
                                                   "' is missing or no matrix of 1 to 2^20 rows"));
  }
  return static_cast<int32_t>(tensor->shape[0]);
}

DecoderKeys FlaKeys() {
  DecoderKeys keys = TransformersKeys();
  keys.ffn_size = "";
  keys.rms_norm_epsilon = "norm_eps";
  keys.num_q_heads = "num_heads";
  keys.num_kv_heads = "num_kv_heads";
  keys.head_dim_k = "";
  return keys;
}

}  // namespace

absl::StatusOr<DecoderDescription> DescribeFlaNsaFolder(const ModelFolder& folder) {
  const ConfigSource& source = folder.config();
  const DecoderNames names = FlaNames();
  const auto ffn_size = RowsOf(folder.weights(), names.gate);
  if (!ffn_size.ok()) return ffn_size.status();
  const auto q_rows = RowsOf(folder.weights(), names.q);
  if (!q_rows.ok()) return q_rows.status();
  auto description = DescribeFolder(
      folder, "nsa",
      FolderLayout{.keys = FlaKeys(), .names = names, .ffn_size = *ffn_size, .q_rows = *q_rows});
  if (!description.ok()) return description.status();
  auto spec = ReadSpec(source, /*num_initial_blocks=*/1, /*num_local_blocks=*/2);
  if (!spec.ok()) return spec.status();
  description->config.native_attention = *spec;
  return description;
}

absl::StatusOr<DecoderDescription> DescribeLlamaNsaFolder(const ModelFolder& folder) {
  DecoderNames names = TransformersNames();
  names.gates = "self_attn.g_proj";
  auto description =
      DescribeFolder(folder, "llama-nsa", FolderLayout{.keys = TransformersKeys(), .names = names});
  if (!description.ok()) return description.status();
  auto spec = ReadSpec(folder.config(), /*num_initial_blocks=*/0, /*num_local_blocks=*/1);
  if (!spec.ok()) return spec.status();
  description->config.native_attention = *spec;
  return description;
}

}  // namespace nsa::engine
