#include "kernels/ops/win_attn.h"

#include <algorithm>

#include "kernels/check.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/paged_attention.h"
#include "kernels/cpu/sparse_attn.h"

namespace nsa::kernels::cpu {
namespace {

class WindowPieces final : public PieceSource {
 public:
  explicit WindowPieces(const WinAttnParams& params) : params_(params) {}

  RowPieces Range(const QueryRow& row) const override {
    const int64_t t = row.position;
    RowPieces pieces;
    pieces.query_page = t / kPageSize;
    pieces.begin_token = params_.page_aligned ? PageAlignedWindowStart(t, params_.window_size)
                                              : std::max<int64_t>(0, t + 1 - params_.window_size);
    pieces.end_token = t + 1;
    return pieces;
  }

 private:
  const WinAttnParams& params_;
};

}  // namespace

StagedCallPtr StageWinAttn(Context& context, const ListScope& scope, const WinAttnParams& params) {
  NSA_CHECK(params.window_size > 0);
  return StagePagedAttention(context, scope, params.query, scope.New<WindowPieces>(params),
                             params.result, context.shared[kWinParts]);
}

void WinAttn(Context& context, const WinAttnParams& params) {
  const ListScope scope(context);
  RunStages(context, scope, *StageWinAttn(context, scope, params));
}

}  // namespace nsa::kernels::cpu
