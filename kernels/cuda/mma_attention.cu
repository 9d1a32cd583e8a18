#include <algorithm>
#include <cstdint>

#include "kernels/cuda/mma_attention.h"
#include "kernels/cuda/mma_attention_types.h"
#include "kernels/cuda/mma_page_tile.h"
#include "kernels/cuda/mma_tile.h"

namespace nsa::kernels::cuda {
namespace {

/// No more rows than segments have on average: blocks of lines without rows would idle. The rows of
/// a selection have pages of their own, and a warp passes over those that none of its lines reads:
/// bytes and products are never more than those of rows one by one. What rows with nothing in
/// common lose is time, in steps for which a page is waited for and few warps work.
TileShape TileShapeOf(const SplitAttention& a) {
  const auto fits = [&](int blocks, int rows) {
    return SharedBytesOf(SizesOfPageTile(a, blocks, rows)) <= kMaxSharedBytes;
  };
  int64_t rows = a.one_row_each ? 1 : CeilDiv(a.num_rows, a.query.num_segments);
  rows = std::max<int64_t>(rows, 1);
  if (a.reads == Reads::kSelection) rows = std::min<int64_t>(rows, kMaxSelectionRows);
  const int max_blocks = a.query.kv.head_dim_v > kFewDimsV ? 1 : kMaxLineBlocks;
  rows = std::min<int64_t>(rows, int64_t{kMmaLines} * max_blocks);
  return ChooseTile(a, max_blocks, static_cast<int>(rows), fits);
}

}  // namespace

bool TakesTensorCores(const SplitAttention& a) {
  const PagedKv& kv = a.query.kv;
  if (!a.uses_tensor_cores || a.reads == Reads::kCompressed || a.result.out == nullptr)
    return false;
  if (1 << a.stretch_log2 != kPageSize) return false;
  if (kv.dtype == DType::kF32 || kv.dtype == DType::kInt8) return false;
  for (const int dims : {kv.head_dim_k, kv.head_dim_v}) {
    if (dims % 16 != 0 || dims > kMaxDims) return false;
  }
  if (!CanCopy16Bytes(kv.slots, {kv.page_stride, kv.head_stride, kv.v_offset})) return false;
  return SharedBytesOf(SizesOfPageTile(a, 1, 1)) <= kMaxSharedBytes;
}

void LaunchMmaAttention(Stream& stream, const char* name, const SplitAttention& attention) {
  const TileShape shape = TileShapeOf(attention);
  switch (attention.query.kv.dtype) {
    case DType::kBF16:
      return LaunchMmaBf16(stream, name, attention, shape);
    case DType::kF8E4M3:
      return LaunchMmaF8E4M3(stream, name, attention, shape);
    default:
      LaunchMmaF16(stream, name, attention, shape);
  }
}

}  // namespace nsa::kernels::cuda
