#ifndef NSA_ENGINE_BATCH_H_
#define NSA_ENGINE_BATCH_H_

#include <cstdint>
#include <span>
#include <vector>

namespace nsa::engine {

/// One sequence's share of a step: `tokens` go in at positions num_cached, num_cached + 1, …
struct BatchEntry {
  int32_t sequence_index = 0;       // the caller's own key
  std::span<const int32_t> tokens;  // [num_scheduled], at least one
  int64_t num_cached = 0;           // tokens whose K and V are in the cache already
  std::span<const int32_t>
      page_table;                   // page indices, enough for num_cached + num_scheduled tokens
  int32_t num_selected_blocks = 0;  // n, where the plan selects
  bool full_attention = false;      // this sequence asked for full attention
  int32_t num_logit_rows = 0;       // logits are wanted for the last so many tokens
  bool decodes = false;             // a decode row, with what is drafted behind it
  bool samples = false;             // the last logits choose a token
  // Where its rows left an earlier step: the layer that they go on with, and from which of the
  // runner's kept rows on their input of it is.
  int32_t first_layer = 0;
  int32_t kept_row = -1;
  // The last token is the one that the step before left here (ModelRunner::TokenChooser), which
  // nobody has looked at yet; −1: it is in `tokens`.
  int32_t token_place = -1;
};

/// Asked by a step where pages need not be in memory: may rows read what they have selected?
/// Engine thread.
class PageGate {
 public:
  virtual ~PageGate() = default;
  /// Rows of the entry read these pages of its page table (indices into it, rising) in this layer.
  /// −1: they may, until the layer ends. Else the entry leaves the step, without logits, and its
  /// rows' input of the layer is kept from this row of the runner's kept rows on.
  virtual int32_t Pass(const BatchEntry& entry, int layer, std::span<const int32_t> pages) = 0;
};

/// What a step runs. Immutable while the step runs; views stay valid until it ends.
struct Batch {
  std::vector<BatchEntry> entries;
  int64_t num_rows = 0;      // Σ tokens
  PageGate* gate = nullptr;  // null: all pages are in memory
};

}  // namespace nsa::engine

#endif  // NSA_ENGINE_BATCH_H_
