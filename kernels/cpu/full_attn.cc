#include "kernels/ops/full_attn.h"

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/paged_attention.h"

namespace nsa::kernels::cpu {

void FullAttn(Context& context, const FullAttnParams& params) {
  const auto pieces_of = [](const QueryRow& row, int) {
    return PiecesOfRange(row.position, 0, row.position + 1);
  };
  PagedAttention(context, params.query, pieces_of, params.result);
}

}  // namespace nsa::kernels::cpu
