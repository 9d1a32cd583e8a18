#include "engine/gated_layer.h"

#include <algorithm>

#include "kernels/tensor.h"

namespace nsa::engine {

void GatedLayer::ReadLists(const kernels::ScoreTopkParams& chosen) {
  const std::span segments(chosen.query.segments, static_cast<size_t>(chosen.query.num_segments));
  first_row_ = std::ranges::min(segments, {}, &kernels::AttentionSegment::row_begin).row_begin;
  int64_t end = first_row_;
  for (const kernels::AttentionSegment& segment : segments) {
    end = std::max<int64_t>(end, segment.row_begin + segment.num_rows);
  }
  const int64_t num_heads = chosen.query.kv.num_kv_heads, stride = chosen.num_selected_blocks;
  const int64_t first = first_row_ * num_heads, num_lists = (end - first_row_) * num_heads;
  num_selected_.resize(static_cast<size_t>(num_lists));
  selected_.resize(static_cast<size_t>(num_lists * stride));
  backend_->Read(num_selected_.data(), chosen.num_selected + first,
                 num_lists * static_cast<int64_t>(sizeof(int32_t)));
  backend_->Read(selected_.data(), chosen.selected + first * stride,
                 num_lists * stride * static_cast<int64_t>(sizeof(int32_t)));
}

void GatedLayer::Collect(const kernels::ScoreTopkParams& chosen,
                         const kernels::AttentionSegment& segment) {
  const int64_t num_heads = chosen.query.kv.num_kv_heads;
  const int64_t first = (segment.row_begin - first_row_) * num_heads;
  const int64_t stride = chosen.num_selected_blocks;
  const int64_t last_page = (segment.position + segment.num_rows - 1) / kernels::kPageSize;
  is_selected_.assign(static_cast<size_t>(last_page) + 1, false);
  const int64_t size = chosen.sel_block_size;
  for (int64_t list = first; list < first + segment.num_rows * num_heads; ++list) {
    const int32_t* blocks = selected_.data() + list * stride;
    for (int32_t b = 0; b < num_selected_[static_cast<size_t>(list)]; ++b) {
      const int64_t end = std::min(((blocks[b] + 1) * size - 1) / kernels::kPageSize, last_page);
      for (int64_t page = blocks[b] * size / kernels::kPageSize; page <= end; ++page) {
        is_selected_[static_cast<size_t>(page)] = true;
      }
    }
  }
  pages_.clear();
  for (size_t page = 0; page < is_selected_.size(); ++page) {
    if (is_selected_[page]) pages_.push_back(static_cast<int32_t>(page));
  }
}

void GatedLayer::OnSelected(const kernels::ScoreTopkParams& chosen) {
  ReadLists(chosen);
  for (int s = 0; s < chosen.query.num_segments; ++s) {
    const kernels::AttentionSegment& segment = chosen.query.segments[s];
    const size_t entry = entries_[static_cast<size_t>(s)];
    Collect(chosen, segment);
    const int32_t kept_row = batch_->gate->Pass(batch_->entries[entry], layer_, pages_);
    if (kept_row < 0) continue;
    // What is not in memory may be on its way there: nobody reads it meanwhile.
    const int64_t num_heads = chosen.query.kv.num_kv_heads;
    none_.assign(static_cast<size_t>(segment.num_rows * num_heads), 0);
    backend_->WriteAhead(chosen.num_selected + segment.row_begin * num_heads, none_.data(),
                         static_cast<int64_t>(none_.size() * sizeof(int32_t)));
    on_leave_(entry, segment.row_begin, kept_row);
  }
}

}  // namespace nsa::engine
