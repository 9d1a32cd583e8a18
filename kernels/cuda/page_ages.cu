#include <cstdint>

#include "kernels/cuda/cuda.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/rows.h"

namespace nsa::kernels::cuda {
namespace {

constexpr int kThreads = 256;

struct Args {
  PageAgesParams params;
  int64_t num_rows;
  bool one_row_each;
};

/// A thread a (row, KV head). Counts of a CTA are gathered before they go to memory.
NSA_KERNEL(kThreads) PageAgesKernel(NSA_ARGS Args args) {
  NSA_SHARED(uint32_t, counts, kNumPageAges);
  const PageAgesParams& p = args.params;
  if (ThreadIndex() < kNumPageAges) counts[ThreadIndex()] = 0;
  SyncThreads();
  const Split by_head = SplitIndex(CtaX() * kThreads + ThreadIndex(), p.num_kv_heads);
  if (by_head.quotient < args.num_rows) {
    const SegmentRow row = FindRow(p.segments, args.one_row_each, by_head.quotient);
    const int64_t list = row.row * p.num_kv_heads + by_head.remainder;
    const int32_t* blocks = p.selected + list * p.num_selected_blocks;
    const int32_t count = p.num_selected[list];
    for (int32_t b = 0; b < count; ++b) {
      AtomicAdd(&counts[BlockAge(row.position, blocks[b], p.sel_block_size)], uint32_t{1});
    }
  }
  SyncThreads();
  if (ThreadIndex() < kNumPageAges && counts[ThreadIndex()] > 0) {
    AtomicAdd(p.ages + ThreadIndex(), int64_t{counts[ThreadIndex()]});
  }
}

}  // namespace

void PageAges(Stream& stream, const PageAgesParams& params, const SegmentsShape& shape) {
  const int64_t lists = shape.num_rows * params.num_kv_heads;
  NSA_CHECK(lists + kThreads <= INT32_MAX);
  Launch(stream, {.name = "page_ages", .grid_x = CeilDiv(lists, kThreads), .num_threads = kThreads},
         PageAgesKernel, Args{params, shape.num_rows, shape.one_row_each});
}

}  // namespace nsa::kernels::cuda
