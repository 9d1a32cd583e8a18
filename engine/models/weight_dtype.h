#ifndef NSA_ENGINE_MODELS_WEIGHT_DTYPE_H_
#define NSA_ENGINE_MODELS_WEIGHT_DTYPE_H_

#include <cstdint>

namespace nsa::engine {

/// What becomes of matrices that a checkpoint holds as F32, F16 or BF16; quantised ones stay.
enum class WeightDtype : uint8_t { kAuto, kBF16, kQ8_0, kQ4_0 };  // kAuto: as they are

}  // namespace nsa::engine

#endif  // NSA_ENGINE_MODELS_WEIGHT_DTYPE_H_
