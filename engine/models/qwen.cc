#include "engine/models/qwen.h"

#include "engine/models/decoder_config.h"

namespace nsa::engine {
namespace {

/// Older folders say by `use_sliding_window` and `max_window_layers` what newer ones say by
/// `layer_types`: layers from the latter on have the window.
absl::Status ReadWindows(const ConfigSource& source, ModelConfig& config) {
  const auto used = GetBoolOr(source, "use_sliding_window", false);
  if (!used.ok()) return used.status();
  if (!*used) {
    for (LayerAttention& layer : config.layers) layer.window_size = 0;
    return absl::OkStatus();
  }
  if (source.Has("layer_types")) return absl::OkStatus();
  const auto window = GetBounded(source, "sliding_window", 1, int64_t{1} << 30);
  if (!window.ok()) return window.status();
  const auto first = GetBoundedOr(source, "max_window_layers", 0, int64_t{1} << 30, 28);
  if (!first.ok()) return first.status();
  for (int64_t i = *first; i < config.num_layers; ++i) {
    config.layers[static_cast<size_t>(i)].window_size = *window;
  }
  return absl::OkStatus();
}

absl::StatusOr<DecoderDescription> DescribeQwenFolder(const ModelFolder& folder,
                                                      std::string_view family,
                                                      const FolderLayout& layout) {
  auto description = DescribeFolder(folder, family, layout);
  if (!description.ok()) return description.status();
  if (absl::Status status = ReadWindows(folder.config(), description->config); !status.ok()) {
    return status;
  }
  return description;
}

}  // namespace

absl::StatusOr<DecoderDescription> DescribeQwen2Gguf(const GgufFile& file) {
  return DescribeGguf(file, "qwen2");
}

absl::StatusOr<DecoderDescription> DescribeQwen2Folder(const ModelFolder& folder) {
  FolderLayout layout = TransformersLayout();
  // No flag: Q, K and V always have theirs.
  layout.biases = {{"", true, layout.names.q}, {"", false, layout.names.output}};
  return DescribeQwenFolder(folder, "qwen2", layout);
}

absl::StatusOr<DecoderDescription> DescribeQwen3Gguf(const GgufFile& file) {
  auto description = DescribeGguf(file, "qwen3");
  if (!description.ok()) return description.status();
  description->names.q_norm = "attn_q_norm";
  description->names.k_norm = "attn_k_norm";
  return description;
}

absl::StatusOr<DecoderDescription> DescribeQwen3Folder(const ModelFolder& folder) {
  auto description = DescribeQwenFolder(folder, "qwen3", TransformersLayout());
  if (!description.ok()) return description.status();
  description->names.q_norm = "self_attn.q_norm";
  description->names.k_norm = "self_attn.k_norm";
  return description;
}

}  // namespace nsa::engine
