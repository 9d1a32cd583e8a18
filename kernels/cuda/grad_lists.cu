#include <cstdint>

#include "kernels/cuda/grad_attention.h"
#include "kernels/cuda/grad_shape.h"
#include "kernels/cuda/launch.h"

namespace nsa::kernels::cuda {
namespace {

struct MaskArgs {
  GradShape shape;
  const int32_t* selected;
};

/// The query's entry as bits of its mask tile's words, which other queries of it share.
NSA_DEVICE void MarkBlock(const GradShape& s, uint64_t* masks, int bit, int position,
                          int32_t block) {
  if (block < 0 || int64_t{block} * s.sel_block_size > position) return;
  const int per_block =
      s.sel_block_size > kTileKeys ? s.sel_block_size / kTileKeys : 1;  // else masks of a tile
  auto* halves = reinterpret_cast<uint32_t*>(masks + int64_t{block} * per_block);
  for (int i = 0; i < per_block; ++i) {
    // Key tiles behind the query's own are none of the sequence, or nothing that it sees.
    if ((int64_t{block} * per_block + i) * (kTileKeys / s.masks_per_tile) > position) return;
    AtomicOr(halves + 2 * i + bit / 32, uint32_t{1} << bit % 32);
  }
}

/// CTA (i): mask tile and KV head i. An or has the same bits in any order.
NSA_KERNEL(kGradThreads) MaskKernel(NSA_ARGS MaskArgs args) {
  const GradShape& s = args.shape;
  const Split place = SplitIndex(CtaX(), s.num_kv_heads);
  const auto kv_head = static_cast<int>(place.remainder);
  const int sequence = FindSequence(s, &GradPlace::mask_tile, place.quotient);
  const SequenceSizes sizes = SizesOf(s, sequence);
  const int tile = static_cast<int>(place.quotient - s.places[sequence].mask_tile);
  const int first = tile * kMaskQueries, left = sizes.num_tokens - first;
  const int num_queries = left < kMaskQueries ? left : kMaskQueries;
  const int64_t width = int64_t{sizes.num_key_tiles} * s.masks_per_tile;
  uint64_t* masks = MasksOf(s, sequence, kv_head) + tile * width;
  // Nobody reads behind the tile's last query.
  const int64_t end = int64_t{(first + num_queries - 1) / kTileKeys + 1} * s.masks_per_tile;
  for (int64_t i = ThreadIndex(); i < end; i += NumThreads()) masks[i] = 0;
  SyncThreads();
  for (int query = WarpIndex(); query < num_queries; query += kGradWarps) {
    const int64_t token = s.places[sequence].token + first + query;
    const int32_t* list = args.selected + KeyRow(s, token, kv_head) * s.num_selected;
    for (int i = LaneIndex(); i < s.num_selected; i += kWarpSize) {
      MarkBlock(s, masks, query, first + query, list[i]);
    }
  }
}

struct PlanArgs {
  GradShape shape;
  GradPlan plan;
};

/// Queries that see the key tile, in every lane.
NSA_DEVICE int CountQueries(const GradShape& s, const KeyTile& t) {
  if (t.positions.begin >= t.positions.end) return 0;
  if (t.masks == nullptr) return t.positions.end - t.positions.begin;
  int count = 0;
  const int end = (t.positions.end - 1) / kMaskQueries + 1;
  for (int tile = t.positions.begin / kMaskQueries + LaneIndex(); tile < end; tile += kWarpSize) {
    count += BitCount64(SeeingQueries(s, t, tile));
  }
  for (int step = kWarpSize / 2; step > 0; step /= 2) count += ShuffleXor(count, step);
  return count;
}

/// A warp a key tile: how many items it makes, in the place of where they begin.
NSA_KERNEL(kGradThreads) CountKernel(NSA_ARGS PlanArgs args) {
  const GradShape& s = args.shape;
  const int64_t tile = CtaX() * kGradWarps + WarpIndex();
  if (tile >= args.plan.num_tiles) return;
  const Split place = SplitIndex(tile, s.totals.key_tile);
  const int count =
      CountQueries(s, KeyTileAt(s, place.remainder, static_cast<int>(place.quotient)));
  const int items = static_cast<int>(SplitIndex(count, args.plan.max_queries).quotient) +
                    (SplitIndex(count, args.plan.max_queries).remainder != 0 ? 1 : 0);
  // Without queries, there are zeros to write.
  if (LaneIndex() == 0) args.plan.item_begins[tile] = items > 0 ? items : 1;
}

constexpr int kSumThreads = 256;

struct ItemSums {  // unsigned, for what is not there yet where a barrier is left out may be
                   // anything
  uint32_t items;
  uint32_t slots;
};
NSA_DEVICE void AddTile(ItemSums& sums, uint32_t items) {
  sums.items += items;
  sums.slots += items > 1 ? items : 0;
}

/// One CTA: counts become begins. A thread has consecutive tiles, and adds what is before them.
NSA_KERNEL(kSumThreads) SumKernel(NSA_ARGS PlanArgs args) {
  const GradPlan& plan = args.plan;
  NSA_SHARED(uint32_t, items, 2 * kSumThreads);
  NSA_SHARED(uint32_t, slots, 2 * kSumThreads);
  const int64_t each = SplitIndex(plan.num_tiles + kSumThreads - 1, kSumThreads).quotient;
  const int64_t begin = ThreadIndex() * each;
  const int64_t end = begin + each < plan.num_tiles ? begin + each : plan.num_tiles;
  ItemSums mine = {0, 0};
  for (int64_t i = begin; i < end; ++i) AddTile(mine, plan.item_begins[i]);
  items[ThreadIndex()] = mine.items;
  slots[ThreadIndex()] = mine.slots;
  int turn = 0;
  for (int step = 1; step < kSumThreads; step *= 2) {
    SyncThreads();
    const int from = turn * kSumThreads + ThreadIndex();
    turn ^= 1;
    const int to = turn * kSumThreads + ThreadIndex();
    const bool adds = ThreadIndex() >= step;
    items[to] = items[from] + (adds ? items[from - step] : 0);
    slots[to] = slots[from] + (adds ? slots[from - step] : 0);
  }
  const int at = turn * kSumThreads + ThreadIndex();  // with its own
  ItemSums before = {items[at] - mine.items, slots[at] - mine.slots};
  for (int64_t i = begin; i < end; ++i) {
    const uint32_t count = plan.item_begins[i];
    plan.item_begins[i] = before.items;
    plan.slot_begins[i] = before.slots;
    AddTile(before, count);
  }
  if (ThreadIndex() == kSumThreads - 1) {
    plan.item_begins[plan.num_tiles] = before.items;
    plan.slot_begins[plan.num_tiles] = before.slots;
  }
}

}  // namespace

void GradMasks(Stream& stream, const GradShape& shape, const int32_t* selected) {
  Launch(stream,
         {.name = "grad_masks",
          .grid_x = shape.totals.mask_tile * shape.num_kv_heads,
          .num_threads = kGradThreads},
         MaskKernel, MaskArgs{shape, selected});
}

void GradPlanKeys(Stream& stream, const GradShape& shape, const GradPlan& plan) {
  Launch(stream,
         {.name = "grad_plan",
          .grid_x = CeilDiv(plan.num_tiles, kGradWarps),
          .num_threads = kGradThreads},
         CountKernel, PlanArgs{shape, plan});
  Launch(stream, {.name = "grad_plan", .num_threads = kSumThreads}, SumKernel,
         PlanArgs{shape, plan});
}

}  // namespace nsa::kernels::cuda
