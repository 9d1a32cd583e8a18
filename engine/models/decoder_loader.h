#ifndef NSA_ENGINE_MODELS_DECODER_LOADER_H_
#define NSA_ENGINE_MODELS_DECODER_LOADER_H_

#include <functional>
#include <memory>

#include "absl/status/statusor.h"
#include "engine/models/decoder_names.h"
#include "engine/models/model.h"
#include "engine/models/weight_dtype.h"
#include "engine/weights/weight_map.h"
#include "kernels/backend.h"

namespace nsa::engine {

/// Told how much of the weights is packed, in [0, 1].
using LoadProgress = std::function<void(double)>;

/// Checks every tensor's name, type and shape and packs the weights for `backend`, layer by layer;
/// what is packed leaves resident memory. `weights` outlives the model, whose embedding table stays
/// in it. Errors name the tensor, what was found and expected. A matrix whose columns are no
/// multiple of 32 is not quantised.
absl::StatusOr<std::unique_ptr<Model>> LoadDecoder(const WeightMap& weights, ModelConfig config,
                                                   const DecoderNames& names, WeightDtype dtype,
                                                   kernels::Backend& backend,
                                                   const LoadProgress& progress);

}  // namespace nsa::engine

#endif  // NSA_ENGINE_MODELS_DECODER_LOADER_H_
