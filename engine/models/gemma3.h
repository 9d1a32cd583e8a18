#ifndef NSA_ENGINE_MODELS_GEMMA3_H_
#define NSA_ENGINE_MODELS_GEMMA3_H_

#include "engine/models/family.h"

namespace nsa::engine {

/// Gemma 3's text model: embeddings scaled by √hidden_size, RMS norms before and after each half of
/// a layer and on each head of Q and K, GeGLU, and five layers with a window and a rotation of
/// their own for each layer with full attention.
absl::StatusOr<DecoderDescription> DescribeGemma3Gguf(const GgufFile& file);
absl::StatusOr<DecoderDescription> DescribeGemma3Folder(const ModelFolder& folder);
/// Folders of the models that read images too: their text half.
absl::StatusOr<DecoderDescription> DescribeGemma3ImageFolder(const ModelFolder& folder);

}  // namespace nsa::engine

#endif  // NSA_ENGINE_MODELS_GEMMA3_H_
