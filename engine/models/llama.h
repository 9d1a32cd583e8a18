#ifndef NSA_ENGINE_MODELS_LLAMA_H_
#define NSA_ENGINE_MODELS_LLAMA_H_

#include <memory>

#include "absl/status/statusor.h"
#include "engine/models/registry.h"

namespace nsa::engine {

/// The Llama architecture from GGUF: RMS norm, rotary attention with grouped KV heads, SwiGLU.
absl::StatusOr<ModelConfig> ReadLlamaConfig(const GgufFile& file);
absl::StatusOr<std::unique_ptr<Model>> LoadLlama(const GgufFile& file, kernels::Backend& backend,
                                                 const LoadProgress& progress);

}  // namespace nsa::engine

#endif  // NSA_ENGINE_MODELS_LLAMA_H_
