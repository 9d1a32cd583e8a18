#include "kernels/ops/win_attn.h"

#include <algorithm>

#include "kernels/check.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/paged_attention.h"

namespace nsa::kernels::cpu {

void WinAttn(Context& context, const WinAttnParams& params) {
  NSA_CHECK(params.window_size > 0);
  const auto pieces_of = [&params](const QueryRow& row, int) {
    const int64_t t = row.position;
    const int64_t begin = params.page_aligned ? PageAlignedWindowStart(t, params.window_size)
                                              : std::max<int64_t>(0, t + 1 - params.window_size);
    return PiecesOfRange(t, begin, t + 1);
  };
  PagedAttention(context, params.query, pieces_of, params.result);
}

}  // namespace nsa::kernels::cpu
