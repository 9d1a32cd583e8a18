#include "kernels/ops/full_attn.h"

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/paged_attention.h"

namespace nsa::kernels::cpu {
namespace {

class AllPieces final : public PieceSource {
 public:
  RowPieces Range(const QueryRow& row) const override {
    RowPieces pieces;
    pieces.query_page = row.position / kPageSize;
    pieces.end_token = row.position + 1;
    return pieces;
  }
};

}  // namespace

void FullAttn(Context& context, const FullAttnParams& params) {
  const ListScope scope(context);
  const AllPieces source;
  RunStages(context, scope,
            *StagePagedAttention(context, scope, params.query, source, params.result,
                                 context.shared[kWinParts]));
}

}  // namespace nsa::kernels::cpu
