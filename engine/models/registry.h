#ifndef NSA_ENGINE_MODELS_REGISTRY_H_
#define NSA_ENGINE_MODELS_REGISTRY_H_

#include <functional>
#include <memory>

#include "absl/status/statusor.h"
#include "engine/models/model.h"
#include "engine/weights/gguf.h"
#include "kernels/backend.h"

namespace nsa::engine {

/// Told how much of the weights is packed, in [0, 1].
using LoadProgress = std::function<void(double)>;

/// Configuration alone: cheap, so that memory can be judged before weights are packed.
/// Unimplemented for an architecture that no family file serves; the message names those known.
absl::StatusOr<ModelConfig> ReadModelConfig(const GgufFile& file);

/// Checks every tensor's name, type and shape and packs the weights for `backend`. `file` outlives
/// the model, whose embedding table stays in it. Errors name the tensor, what was found and
/// expected.
absl::StatusOr<std::unique_ptr<Model>> LoadModel(const GgufFile& file, kernels::Backend& backend,
                                                 const LoadProgress& progress);

}  // namespace nsa::engine

#endif  // NSA_ENGINE_MODELS_REGISTRY_H_
