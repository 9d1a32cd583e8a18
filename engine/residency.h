#ifndef NSA_ENGINE_RESIDENCY_H_
#define NSA_ENGINE_RESIDENCY_H_

#include <algorithm>
#include <cstdint>

#include "engine/attention/spec.h"
#include "kernels/tensor.h"

namespace nsa::engine {

/// Pages that hold so many tokens.
constexpr int64_t PagesFor(int64_t num_tokens) {
  return (num_tokens + kernels::kPageSize - 1) / kernels::kPageSize;
}

/// How much of a sequence must be in memory while its rows run, where a tier below holds the rest:
/// in every layer the pages that all its rows read, and in the layer at hand what a row selects.
struct Residency {
  int32_t num_layers = 0;       // 0: a sequence runs with all its pages in memory
  int32_t num_kv_heads = 1;     // each selects for itself
  int64_t kept_pages = 0;       // before the page of a row: what windows and compression read
  int64_t pages_per_block = 1;  // of selection
  int64_t dense_pages = 0;      // that a row selects where it sees few tokens

  /// `window_size`: the longest window of a layer of its own.
  static Residency Of(const AttentionSpec& spec, int64_t window_size, int32_t num_layers,
                      int32_t num_kv_heads) {
    if (!spec.sparse) return {};
    const int64_t tokens = std::max<int64_t>(
        {window_size, spec.window_size, spec.compression_length, spec.compression_stride});
    return {.num_layers = num_layers,
            .num_kv_heads = num_kv_heads,
            .kept_pages = PagesFor(tokens),
            .pages_per_block = PagesFor(spec.sel_block_size),
            .dense_pages = PagesFor(spec.dense_length)};
  }

  bool enabled() const { return num_layers > 0; }
  /// That a row with this n selects in a layer, at most.
  int64_t RowPages(int32_t blocks) const {
    return std::max(blocks * pages_per_block * num_kv_heads, dense_pages);
  }
  /// Frames that one layer of it takes.
  int64_t RowFrames(int32_t blocks) const {
    return (RowPages(blocks) + num_layers - 1) / num_layers;
  }
  /// Frames with which a sequence finds in memory what it selects again and again.
  int64_t WorkingFrames(int32_t blocks) const { return kept_pages + 2 + RowPages(blocks); }
  /// Frames without which it would not get on by itself.
  int64_t LeastFrames(int32_t blocks) const { return kept_pages + 3 + RowFrames(blocks); }
};

}  // namespace nsa::engine

#endif  // NSA_ENGINE_RESIDENCY_H_
