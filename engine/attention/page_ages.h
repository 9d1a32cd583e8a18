#ifndef NSA_ENGINE_ATTENTION_PAGE_AGES_H_
#define NSA_ENGINE_ATTENTION_PAGE_AGES_H_

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>

namespace nsa::engine {

/// How far behind its query a selected page stood, in classes: class 0 is the query's own page,
/// class i ≥ 1 holds distances of 2^(i−1) to 2^i − 1 pages, the last class all beyond.
inline constexpr int kNumPageAges = 16;

/// Selections by class, summed over rows, layers and KV heads.
using PageAges = std::array<int64_t, kNumPageAges>;

constexpr int PageAge(int64_t distance) {
  return std::min(static_cast<int>(std::bit_width(static_cast<uint64_t>(distance))),
                  kNumPageAges - 1);
}

}  // namespace nsa::engine

#endif  // NSA_ENGINE_ATTENTION_PAGE_AGES_H_
