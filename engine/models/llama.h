#ifndef NSA_ENGINE_MODELS_LLAMA_H_
#define NSA_ENGINE_MODELS_LLAMA_H_

#include "engine/models/family.h"

namespace nsa::engine {

/// The Llama architecture: RMS norm, rotary attention with grouped KV heads, SwiGLU. SmolLM2 and
/// many others are llamas by their files' own word.
absl::StatusOr<DecoderDescription> DescribeLlamaGguf(const GgufFile& file);
absl::StatusOr<DecoderDescription> DescribeLlamaFolder(const ModelFolder& folder);

/// Mistral: a llama whose layers may all have a sliding window. Its GGUF files call it llama.
absl::StatusOr<DecoderDescription> DescribeMistralFolder(const ModelFolder& folder);

}  // namespace nsa::engine

#endif  // NSA_ENGINE_MODELS_LLAMA_H_
