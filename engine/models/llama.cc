#include "engine/models/llama.h"

#include <nlohmann/json.hpp>

#include "engine/models/decoder_config.h"

namespace nsa::engine {
namespace {

constexpr int64_t kMistralWindow = 4096;  // of a configuration that does not name any

}  // namespace

absl::StatusOr<DecoderDescription> DescribeLlamaGguf(const GgufFile& file) {
  auto description = DescribeGguf(file, "llama");
  if (!description.ok()) return description.status();
  description->names.interleaved_rope = true;
  return description;
}

absl::StatusOr<DecoderDescription> DescribeLlamaFolder(const ModelFolder& folder) {
  FolderLayout layout = TransformersLayout();
  layout.biases.push_back({"mlp_bias", false, layout.names.gate});
  layout.biases.push_back({"mlp_bias", false, layout.names.down});
  return DescribeFolder(folder, "llama", layout);
}

absl::StatusOr<DecoderDescription> DescribeMistralFolder(const ModelFolder& folder) {
  FolderLayout layout = TransformersLayout();
  for (BiasRule& rule : layout.biases) rule.key = "";
  auto description = DescribeFolder(folder, "llama", layout);
  if (!description.ok()) return description.status();
  const JsonConfig& source = folder.config();
  // Null means no window, and no field the first release's.
  const int64_t otherwise = source.document().contains("sliding_window") ? 0 : kMistralWindow;
  const auto window = GetBoundedOr(source, "sliding_window", 1, int64_t{1} << 30, otherwise);
  if (!window.ok()) return window.status();
  if (source.Has("layer_types")) return description;
  for (LayerAttention& layer : description->config.layers) layer.window_size = *window;
  return description;
}

}  // namespace nsa::engine
