#ifndef NSA_ENGINE_MODELS_MINICPM_H_
#define NSA_ENGINE_MODELS_MINICPM_H_

#include "absl/status/statusor.h"
#include "engine/models/family.h"
#include "engine/weights/model_folder.h"

namespace nsa::engine {

/// MiniCPM 1 to 4.1 (Hu et al. 2024, arXiv 2404.06395): Llama with scaled embeddings, residuals and
/// logits, and long rope. With `sparse_config` it attends by InfLLM-v2 (Zhao et al. 2025, arXiv
/// 2509.24663), as its authors' infllmv2_cuda_impl computes it.
absl::StatusOr<DecoderDescription> DescribeMiniCpmFolder(const ModelFolder& folder);

}  // namespace nsa::engine

#endif  // NSA_ENGINE_MODELS_MINICPM_H_
