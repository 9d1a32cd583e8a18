#ifndef NSA_ENGINE_MODELS_QWEN_H_
#define NSA_ENGINE_MODELS_QWEN_H_

#include "engine/models/family.h"

namespace nsa::engine {

/// Qwen 2 and 2.5: a llama with biases on Q, K and V, in later layers perhaps with a window.
absl::StatusOr<DecoderDescription> DescribeQwen2Gguf(const GgufFile& file);
absl::StatusOr<DecoderDescription> DescribeQwen2Folder(const ModelFolder& folder);

/// Qwen 3: no biases, but an RMS norm on each head of Q and K before they are rotated.
absl::StatusOr<DecoderDescription> DescribeQwen3Gguf(const GgufFile& file);
absl::StatusOr<DecoderDescription> DescribeQwen3Folder(const ModelFolder& folder);

}  // namespace nsa::engine

#endif  // NSA_ENGINE_MODELS_QWEN_H_
