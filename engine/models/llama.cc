#include "engine/models/llama.h"

#include "engine/models/decoder_config.h"

namespace nsa::engine {

absl::StatusOr<DecoderDescription> DescribeLlamaGguf(const GgufFile& file) {
  auto description = DescribeGguf(file, "llama");
  if (!description.ok()) return description.status();
  description->names.interleaved_rope = true;
  return description;
}

absl::StatusOr<DecoderDescription> DescribeLlamaFolder(const ModelFolder& folder) {
  return DescribeFolder(folder, "llama");
}

absl::StatusOr<DecoderDescription> DescribeMistralFolder(const ModelFolder& folder) {
  auto description = DescribeFolder(folder, "llama");
  if (!description.ok()) return description.status();
  const ConfigSource& source = folder.config();
  const auto window = GetBoundedOr(source, "sliding_window", 1, int64_t{1} << 30, 0);
  if (!window.ok()) return window.status();
  if (source.Has("layer_types")) return description;
  for (LayerAttention& layer : description->config.layers) layer.window_size = *window;
  return description;
}

}  // namespace nsa::engine
