#ifndef NSA_ENGINE_MODELS_REGISTRY_H_
#define NSA_ENGINE_MODELS_REGISTRY_H_

#include <memory>

#include "absl/status/statusor.h"
#include "engine/models/decoder_loader.h"
#include "engine/models/family.h"
#include "engine/weights/checkpoint.h"
#include "kernels/backend.h"

namespace nsa::engine {

/// Configuration alone: cheap, so that memory can be judged before weights are packed.
/// Unimplemented for an architecture that no family file serves; the message names those known.
absl::StatusOr<DecoderDescription> DescribeModel(const Checkpoint& checkpoint);

}  // namespace nsa::engine

#endif  // NSA_ENGINE_MODELS_REGISTRY_H_
