#include "kernels/ops/sel_attn.h"

#include <algorithm>

#include "kernels/check.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/paged_attention.h"
#include "kernels/cpu/sparse_attn.h"

namespace nsa::kernels::cpu {
namespace {

class SelectedPieces final : public PieceSource {
 public:
  SelectedPieces(const SelAttnParams& params, const ScoreTopkParams* choice)
      : params_(params), choice_(choice) {}

  RowPieces Range(const QueryRow& row) const override {
    RowPieces pieces;
    pieces.query_page = row.position / kPageSize;
    if (!params_.reads_window) return pieces;
    pieces.begin_token = PageAlignedWindowStart(row.position, params_.window_size);
    pieces.end_token = row.position + 1;
    return pieces;
  }

  int64_t MaxSelPieces(const QueryRow& row) const override {
    if (choice_ != nullptr) return NumPieces(NumChosenBlocks(*choice_, row));
    const int num_kv_heads = params_.query.kv.num_kv_heads;
    const int32_t* num_selected = params_.num_selected + row.row * num_kv_heads;
    return NumPieces(*std::max_element(num_selected, num_selected + num_kv_heads));
  }

  void AddSelected(const QueryRow& row, int kv_head, RowPieces& pieces) const override {
    const int64_t index = row.row * params_.query.kv.num_kv_heads + kv_head;
    pieces.num_sel_pieces = NumPieces(params_.num_selected[index]);
    pieces.sel_blocks = params_.selected + index * params_.num_selected_blocks;
    pieces.sel_block_size = params_.sel_block_size;
    pieces.sel_end_token = params_.window_size > 0
                               ? PageAlignedWindowStart(row.position, params_.window_size)
                               : row.position + 1;
    if (params_.max_page_distance >= 0) pieces.max_page_distance = params_.max_page_distance;
  }

 private:
  int64_t NumPieces(int64_t num_blocks) const {
    return num_blocks * std::max(1, params_.sel_block_size / kPageSize);
  }

  const SelAttnParams& params_;
  const ScoreTopkParams* choice_;
};

}  // namespace

StagedCallPtr StageSelAttn(Context& context, const ListScope& scope, const SelAttnParams& params,
                           const ScoreTopkParams* choice) {
  NSA_CHECK(!params.reads_window || params.window_size > 0);
  return StagePagedAttention(context, scope, params.query,
                             scope.New<SelectedPieces>(params, choice), params.result,
                             context.shared[kSelParts]);
}

void SelAttn(Context& context, const SelAttnParams& params) {
  const ListScope scope(context);
  RunStages(context, scope, *StageSelAttn(context, scope, params, nullptr));
}

}  // namespace nsa::kernels::cpu
