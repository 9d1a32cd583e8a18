#ifndef NSA_ENGINE_ATTENTION_PAGE_AGES_H_
#define NSA_ENGINE_ATTENTION_PAGE_AGES_H_

#include <array>
#include <cstdint>

#include "kernels/ops/page_ages.h"

namespace nsa::engine {

using kernels::kNumPageAges;
using kernels::PageAge;

/// Selections by class of age (kernels/ops/page_ages.h), summed over rows, layers and KV heads.
using PageAges = std::array<int64_t, kNumPageAges>;

}  // namespace nsa::engine

#endif  // NSA_ENGINE_ATTENTION_PAGE_AGES_H_
