#ifndef NSA_ENGINE_MODELS_NSA_H_
#define NSA_ENGINE_MODELS_NSA_H_

#include "engine/models/family.h"

namespace nsa::engine {

/// `nsa` of fla (flash-linear-attention): Native Sparse Attention with means of blocks, K and V
/// shared by the branches, gates from one matrix. Head and feed-forward sizes come from the
/// tensors: fla's model ignores its configuration's head_dim, and rounds ffn sizes its own way.
absl::StatusOr<DecoderDescription> DescribeFlaNsaFolder(const ModelFolder& folder);

/// `llama-nsa` (zen-E/NSA-1B): a llama with the same attention, of which the query's own block
/// alone is forced.
absl::StatusOr<DecoderDescription> DescribeLlamaNsaFolder(const ModelFolder& folder);

}  // namespace nsa::engine

#endif  // NSA_ENGINE_MODELS_NSA_H_
