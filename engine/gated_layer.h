#ifndef NSA_ENGINE_GATED_LAYER_H_
#define NSA_ENGINE_GATED_LAYER_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <utility>
#include <vector>

#include "engine/attention/plan.h"
#include "engine/batch.h"
#include "kernels/backend.h"

namespace nsa::engine {

/// Between selection and reading in one layer: collects which pages each entry's rows selected,
/// asks the batch's gate, and empties the lists of entries that leave. One thread (the engine's).
class GatedLayer final : public SelectionObserver {
 public:
  /// Told that an entry leaves, whose rows are [row_begin, row_begin + num_rows).
  using OnLeave = std::function<void(size_t entry, int64_t row_begin, int32_t kept_row)>;

  GatedLayer(kernels::Backend* backend, OnLeave on_leave)
      : backend_(backend), on_leave_(std::move(on_leave)) {}

  /// What comes next: `entries` [segments] are the batch's entries of the call's segments.
  void Begin(const Batch* batch, int layer, std::span<const size_t> entries) {
    batch_ = batch;
    layer_ = layer;
    entries_ = entries;
  }
  void OnSelected(const kernels::ScoreTopkParams& chosen) override;

 private:
  /// The lists of all rows at once: on a device each reading is a wait.
  void ReadLists(const kernels::ScoreTopkParams& chosen);
  /// Into pages_: what the rows of a segment selected.
  void Collect(const kernels::ScoreTopkParams& chosen, const kernels::AttentionSegment& segment);

  kernels::Backend* backend_;
  OnLeave on_leave_;
  const Batch* batch_ = nullptr;
  int layer_ = 0;
  std::span<const size_t> entries_;
  std::vector<int32_t> selected_, num_selected_;  // from row first_row_ on, on the host
  int64_t first_row_ = 0;
  std::vector<int32_t> none_;
  std::vector<bool> is_selected_;  // by page of the segment's page table
  std::vector<int32_t> pages_;
};

}  // namespace nsa::engine

#endif  // NSA_ENGINE_GATED_LAYER_H_
