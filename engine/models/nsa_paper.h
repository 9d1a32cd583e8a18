#ifndef NSA_ENGINE_MODELS_NSA_PAPER_H_
#define NSA_ENGINE_MODELS_NSA_PAPER_H_

#include "absl/status/statusor.h"
#include "engine/models/family.h"
#include "engine/weights/model_folder.h"

namespace nsa::engine {

/// NSA as published (Yuan et al. 2025, arXiv 2502.11089): learned compression, K and V by branch, a
/// perceptron for the gates. Configuration and tensor names are ours: README.md has them.
absl::StatusOr<DecoderDescription> DescribeNsaPaperFolder(const ModelFolder& folder);

}  // namespace nsa::engine

#endif  // NSA_ENGINE_MODELS_NSA_PAPER_H_
