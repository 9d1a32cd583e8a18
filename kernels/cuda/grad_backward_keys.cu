#include <cstdint>

#include "kernels/cuda/grad_attention.h"
#include "kernels/cuda/grad_backward.h"
#include "kernels/cuda/grad_lines.h"
#include "kernels/cuda/grad_mma.h"
#include "kernels/cuda/launch.h"

namespace nsa::kernels::cuda {
namespace {

/// Lines that meet a key tile at once: two steps of the products over lines, or one where sums of
/// more columns take the registers.
constexpr int kMaxStepLines = 32;
constexpr int StepLines(int dim_k) { return dim_k > 128 ? 16 : kMaxStepLines; }
/// Mask tiles whose queries are listed at once: a lane each.
constexpr int kListTiles = kWarpSize;

struct KeysArgs {
  GradBackward call;
  GradPlan plan;
};

/// An item: queries [begin, end) of those that see its key tile, counted as they rise.
struct KeyItem {
  KeyTile tile;
  int64_t index;  // of the tile, over all KV heads
  int64_t slot;   // −1: the item is all of its tile
  int begin;
  int end;
};
/// The CTA's; its tile's index is −1 where there are fewer items than CTAs.
NSA_DEVICE KeyItem ItemOfCta(const GradShape& s, const GradPlan& plan) {
  KeyItem item = {};
  item.index = -1;
  if (CtaX() >= plan.item_begins[plan.num_tiles]) return item;
  int64_t low = 0, high = plan.num_tiles - 1;
  while (low < high) {
    const int64_t middle = low + (high - low + 1) / 2;
    if (plan.item_begins[middle] <= CtaX()) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  const Split place = SplitIndex(low, s.totals.key_tile);
  const int part = static_cast<int>(CtaX() - plan.item_begins[low]);
  const bool is_part = plan.item_begins[low + 1] - plan.item_begins[low] > 1;
  item.tile = KeyTileAt(s, place.remainder, static_cast<int>(place.quotient));
  item.index = low;
  item.slot = is_part ? plan.slot_begins[low] + part : -1;
  DeviceCheck(item.slot >= (is_part ? 0 : -1) && item.slot < plan.max_slots);
  item.begin = part * plan.max_queries;
  item.end = is_part ? item.begin + plan.max_queries : INT32_MAX;
  return item;
}

/// What a step's lines need besides their rows.
struct StepLine {
  uint64_t keys;  // of the tile that it sees
  float lse;      // in units of log₂
  float delta;
};

struct KeysShared {
  Bf16* k;
  Bf16* v;
  Bf16* q;          // [2, StepLines(kDimK), ·]
  Bf16* grad_out;   // [2, StepLines(kDimK), ·]
  StepLine* lines;  // [2, StepLines(kDimK)]
  uint16_t* list;   // queries, from the first of kListTiles mask tiles
};

/// Lists those queries of kListTiles mask tiles from `tile` on that belong to the item; returns how
/// many they are, and adds those that see the key tile to `passed`. Each warp counts for itself,
/// and writes what a quarter of its lanes found.
NSA_DEVICE int ListQueries(const GradShape& s, const KeyItem& item, int tile, int end_tile,
                           int& passed, uint16_t* list) {
  const int mine = tile + LaneIndex();
  uint64_t queries = mine < end_tile ? SeeingQueries(s, item.tile, mine) : 0;
  const int count = BitCount64(queries);
  int upto = count;  // with those of lower lanes
  NSA_UNROLL
  for (int step = 1; step < kWarpSize; step *= 2) {
    const int from = LaneIndex() - step;
    const int other = Shuffle(upto, from < 0 ? 0 : from);
    if (from >= 0) upto += other;
  }
  const int all = Shuffle(upto, kWarpSize - 1);
  int rank = passed + upto - count;
  const int begin = passed < item.begin ? item.begin : passed;
  const int end = passed + all < item.end ? passed + all : item.end;
  for (; queries != 0 && LaneIndex() % kGradWarps == WarpIndex(); ++rank) {
    const auto low = static_cast<uint32_t>(queries);
    const int bit =
        low != 0 ? LowestBit(low) : 32 + LowestBit(static_cast<uint32_t>(queries >> 32));
    queries &= queries - 1;
    if (rank < begin || rank >= end) continue;
    list[rank - begin] = static_cast<uint16_t>(LaneIndex() * kMaskQueries + bit);
  }
  passed += all;
  return end > begin ? end - begin : 0;
}

/// Starts the copies of the step's lines: those from `first` on of the listed queries' `num_lines`.
/// `tile` is the list's first mask tile.
template <int kDimK, int kDimV>
NSA_DEVICE void CopyStep(const GradBackward& call, const KeyItem& item, int tile, int first,
                         int num_lines, const KeysShared& shared, int turn) {
  constexpr int kStepLines = StepLines(kDimK);
  const GradShape& s = call.shape;
  const KeyTile& t = item.tile;
  const int first_position = tile * kMaskQueries;
  const auto row_of = [&](int line) {
    const Split place = SplitIndex(first + line, s.group);
    const int position = first_position + shared.list[place.quotient];
    DeviceCheck(position < t.positions.end);
    return QueryRow(s, t.token + position, t.kv_head, static_cast<int>(place.remainder));
  };
  const auto* q = static_cast<const Bf16*>(call.q);
  const auto* grad_out = static_cast<const Bf16*>(call.grad_out);
  CopyRows<kDimK>(shared.q + turn * kStepLines * Pitch(kDimK), kStepLines, s.dim_k, q,
                  [&](int i) { return first + i < num_lines ? q + row_of(i) * s.dim_k : nullptr; });
  CopyRows<kDimV>(
      shared.grad_out + turn * kStepLines * Pitch(kDimV), kStepLines, s.dim_v, grad_out,
      [&](int i) { return first + i < num_lines ? grad_out + row_of(i) * s.dim_v : nullptr; });
  CommitCopies();
  if (const int i = ThreadIndex(); i < kStepLines) {
    StepLine line = {0, 0, 0};
    if (first + i < num_lines) {
      const int query = shared.list[SplitIndex(first + i, s.group).quotient];
      const int64_t row = row_of(i);
      const uint64_t* masks = MasksOfQueries(s, t, tile + query / kMaskQueries);
      line = {KeyBits(s, masks, query % kMaskQueries, SeenBy(s, first_position + query), t.tile),
              call.lse[row] * kLog2E, call.deltas[row]};
    }
    shared.lines[turn * kStepLines + i] = line;
  }
}

/// A warp's 16 keys.
template <int kDimK, int kDimV>
struct KeySums {
  float grad_k[kDimK / 8][4];
  float grad_v[kDimV / 8][4];
};

/// Scores of 16 keys by the step's lines become probabilities, and grad_p their scores' gradients.
template <int kStepLines>
NSA_DEVICE void ToProbabilities(const StepLine* lines, float factor,
                                float (&scores)[kStepLines / 8][4],
                                float (&grad_p)[kStepLines / 8][4]) {
  const int key = WarpIndex() * 16 + LaneIndex() / 4;
  NSA_UNROLL
  for (int n = 0; n < kStepLines / 8; ++n) {
    NSA_UNROLL
    for (int i = 0; i < 4; ++i) {
      const StepLine& line = lines[8 * n + LaneIndex() % 4 * 2 + i % 2];
      const bool is_seen = (line.keys >> (key + i / 2 * 8) & 1) != 0;
      const GradScore made =
          ToGradScore(is_seen, scores[n][i] * factor, line.lse, grad_p[n][i], line.delta);
      scores[n][i] = made.p;
      grad_p[n][i] = made.ds;
    }
  }
}

template <int kDimK, int kDimV>
NSA_DEVICE void AddStep(const GradShape& s, const KeysShared& shared, int turn,
                        KeySums<kDimK, kDimV>& sums) {
  constexpr int kStepLines = StepLines(kDimK);
  const Bf16* q = shared.q + turn * kStepLines * Pitch(kDimK);
  const Bf16* grad_out = shared.grad_out + turn * kStepLines * Pitch(kDimV);
  const int first_key = WarpIndex() * 16;
  float p[kStepLines / 8][4], ds[kStepLines / 8][4];
  Clear(p);
  Clear(ds);
  MultiplyRows<kDimK>(shared.k + first_key * Pitch(kDimK), q, p);
  MultiplyRows<kDimV>(shared.v + first_key * Pitch(kDimV), grad_out, ds);
  ToProbabilities<kStepLines>(shared.lines + turn * kStepLines, s.scale * kLog2E, p, ds);
  MultiplyWeights<kDimV>(p, grad_out, sums.grad_v);
  MultiplyWeights<kDimK>(ds, q, sums.grad_k);
}

/// The warp's rows of one gradient, bfloat16 or in the item's slot.
template <int kDims>
NSA_DEVICE void StoreKeys(const GradShape& s, const KeyItem& item, const GradPlan& plan,
                          const float (&sums)[kDims / 8][4], float factor, int dims, int column,
                          Bf16* rows) {
  NSA_UNROLL
  for (int half = 0; half < 2; ++half) {
    const int key = WarpIndex() * 16 + LaneIndex() / 4 + 8 * half;
    if (key >= item.tile.num_keys) continue;
    Bf16* row = rows + KeyRow(s, item.tile.key + key, item.tile.kv_head) * dims;
    const int64_t slot_row = (item.slot < 0 ? 0 : item.slot) * kTileKeys + key;
    float* slot = item.slot < 0 ? nullptr : plan.slots + slot_row * (s.dim_k + s.dim_v) + column;
    NSA_UNROLL
    for (int n = 0; n < kDims / 8; ++n) {
      if (8 * n >= dims) continue;
      const int at = 8 * n + LaneIndex() % 4 * 2;
      const float low = sums[n][2 * half] * factor, high = sums[n][2 * half + 1] * factor;
      if (item.slot < 0) {
        *reinterpret_cast<uint32_t*>(row + at) = ToBf16Pair(low, high);
      } else {
        slot[at] = low;
        slot[at + 1] = high;
      }
    }
  }
}

/// CTA (i): item i. A warp has 16 keys, whose sums stay in registers while queries come by.
template <int kDimK, int kDimV>
NSA_KERNEL(kGradThreads)
KeysKernel(NSA_ARGS KeysArgs args) {
  constexpr int kStepLines = StepLines(kDimK);
  const GradBackward& call = args.call;
  const GradShape& s = call.shape;
  SharedArena arena;
  const KeysShared shared = {arena.Take<Bf16>(kTileKeys * Pitch(kDimK)),
                             arena.Take<Bf16>(kTileKeys * Pitch(kDimV)),
                             arena.Take<Bf16>(2 * kStepLines * Pitch(kDimK)),
                             arena.Take<Bf16>(2 * kStepLines * Pitch(kDimV)),
                             arena.Take<StepLine>(2 * kStepLines),
                             arena.Take<uint16_t>(kListTiles * kMaskQueries)};
  const KeyItem item = ItemOfCta(s, args.plan);
  if (item.index < 0) return;
  const KeyTile& t = item.tile;
  const auto copy_keys = [&](auto dims_of, const void* rows, int dims, Bf16* to) {
    const auto* from = static_cast<const Bf16*>(rows);
    CopyRows<dims_of.kValue>(to, kTileKeys, dims, from, [&](int i) {
      return i < t.num_keys ? from + KeyRow(s, t.key + i, t.kv_head) * dims : nullptr;
    });
  };
  copy_keys(DimsOf<kDimK>{}, call.k, s.dim_k, shared.k);
  copy_keys(DimsOf<kDimV>{}, call.v, s.dim_v, shared.v);
  CommitCopies();
  KeySums<kDimK, kDimV> sums;
  Clear(sums.grad_k);
  Clear(sums.grad_v);
  const bool has_queries = t.positions.begin < t.positions.end;
  const int end_tile = has_queries ? (t.positions.end - 1) / kMaskQueries + 1 : 0;
  int passed = 0;
  for (int tile = t.positions.begin / kMaskQueries; tile < end_tile && passed < item.end;
       tile += kListTiles) {
    const int num_lines = ListQueries(s, item, tile, end_tile, passed, shared.list) * s.group;
    if (num_lines == 0) continue;
    SyncThreads();  // the list is there
    CopyStep<kDimK, kDimV>(call, item, tile, 0, num_lines, shared, 0);
    for (int first = 0, turn = 0; first < num_lines; first += kStepLines, turn ^= 1) {
      WaitCopies<0>();
      SyncThreads();  // the step is there; nobody reads the one before any more
      if (first + kStepLines < num_lines) {
        CopyStep<kDimK, kDimV>(call, item, tile, first + kStepLines, num_lines, shared, turn ^ 1);
      }
      AddStep<kDimK, kDimV>(s, shared, turn, sums);
    }
    // Nobody reads the list or a step any more.
    if (tile + kListTiles < end_tile && passed < item.end) SyncThreads();
  }
  WaitCopies<0>();
  StoreKeys<kDimK>(s, item, args.plan, sums.grad_k, s.scale, s.dim_k, 0,
                   static_cast<Bf16*>(call.grad_k));
  StoreKeys<kDimV>(s, item, args.plan, sums.grad_v, 1, s.dim_v, s.dim_k,
                   static_cast<Bf16*>(call.grad_v));
}

/// CTA (i): key tile i of all KV heads, where it has several items: their sums, in order.
NSA_KERNEL(kGradThreads) AddSlotsKernel(NSA_ARGS KeysArgs args) {
  const GradShape& s = args.call.shape;
  const GradPlan& plan = args.plan;
  const int64_t begin = plan.slot_begins[CtaX()], end = plan.slot_begins[CtaX() + 1];
  if (begin == end) return;
  DeviceCheck(begin >= 0 && end <= plan.max_slots);
  const Split place = SplitIndex(CtaX(), s.totals.key_tile);
  const KeyTile t = KeyTileAt(s, place.remainder, static_cast<int>(place.quotient));
  const int dims = s.dim_k + s.dim_v;
  for (int i = ThreadIndex(); i < t.num_keys * dims; i += NumThreads()) {
    const Split element = SplitIndex(i, dims);
    float sum = 0;
    for (int64_t slot = begin; slot < end; ++slot) sum += plan.slots[slot * kTileKeys * dims + i];
    const int64_t row = KeyRow(s, t.key + element.quotient, t.kv_head);
    const int64_t column = element.remainder;
    if (column < s.dim_k) {
      static_cast<Bf16*>(args.call.grad_k)[row * s.dim_k + column] = ToBf16(sum);
    } else {
      static_cast<Bf16*>(args.call.grad_v)[row * s.dim_v + column - s.dim_k] = ToBf16(sum);
    }
  }
}

/// A warp a key: a lane a line for scores, a dimension for the gradients.
template <typename T>
NSA_KERNEL(kGradThreads)
PlainKeysKernel(NSA_ARGS GradBackward call) {
  const GradShape& s = call.shape;
  const int dims = s.dim_k + s.dim_v;
  SharedArena arena;
  float* k = WarpMemory(arena, 2 * dims + 2 * kWarpSize);
  float *v = k + s.dim_k, *grad_k = k + dims, *grad_v = grad_k + s.dim_k;
  float *p = k + 2 * dims, *ds = p + kWarpSize;
  const Split place = SplitIndex(ItemOfWarp(), s.num_kv_heads);
  if (place.quotient >= s.totals.key) return;
  const auto kv_head = static_cast<int>(place.remainder);
  const int sequence = FindSequence(s, &GradPlace::key, place.quotient);
  const auto key = static_cast<int>(place.quotient - s.places[sequence].key);
  const KeyTile t = KeyTileAt(s, s.places[sequence].key_tile + key / kTileKeys, kv_head);
  const int64_t own = KeyRow(s, place.quotient, kv_head);
  LoadRow(static_cast<const T*>(call.k) + own * s.dim_k, s.dim_k, k);
  LoadRow(static_cast<const T*>(call.v) + own * s.dim_v, s.dim_v, v);
  for (int i = LaneIndex(); i < dims; i += kWarpSize) grad_k[i] = 0;
  SyncWarp();
  const auto* all_q = static_cast<const T*>(call.q);
  const auto* all_grad_out = static_cast<const T*>(call.grad_out);
  ForEachLineRun(s, t, key % kTileKeys, [&](const LineRun& run) {
    if (LaneIndex() < run.num_lines) {
      const int64_t row = run.Row(s, LaneIndex());
      const float score = s.scale * Dot(k, all_q + row * s.dim_k, s.dim_k);
      const float probability = Exp(score - call.lse[row]);
      p[LaneIndex()] = probability;
      ds[LaneIndex()] =
          probability * (Dot(v, all_grad_out + row * s.dim_v, s.dim_v) - call.deltas[row]);
    }
    SyncWarp();
    for (int line = 0; line < run.num_lines; ++line) {
      const int64_t row = run.Row(s, line);
      for (int i = LaneIndex(); i < s.dim_k; i += kWarpSize) {
        grad_k[i] = Fma(ds[line], ToFloat(all_q[row * s.dim_k + i]), grad_k[i]);
      }
      for (int i = LaneIndex(); i < s.dim_v; i += kWarpSize) {
        grad_v[i] = Fma(p[line], ToFloat(all_grad_out[row * s.dim_v + i]), grad_v[i]);
      }
    }
    SyncWarp();  // nobody reads the weights any more
  });
  auto* to_k = static_cast<T*>(call.grad_k) + own * s.dim_k;
  for (int i = LaneIndex(); i < s.dim_k; i += kWarpSize) {
    to_k[i] = FromFloat<T>(grad_k[i] * s.scale);
  }
  auto* to_v = static_cast<T*>(call.grad_v) + own * s.dim_v;
  for (int i = LaneIndex(); i < s.dim_v; i += kWarpSize) to_v[i] = FromFloat<T>(grad_v[i]);
}

}  // namespace

void GradAttentionKeys(Stream& stream, DType dtype, bool has_tensors, const GradBackward& call,
                       const GradPlan& plan) {
  const GradShape& s = call.shape;
  if (!has_tensors) {
    return WithGradType(dtype, [&](auto element) {
      Launch(stream,
             PlainShape("grad_keys", s.totals.key * s.num_kv_heads,
                        2 * (s.dim_k + s.dim_v + kWarpSize)),
             PlainKeysKernel<decltype(element)>, call);
    });
  }
  const KeysArgs args = {call, plan};
  WithTensorDims(s.dim_k, s.dim_v, [&](auto k, auto v) {
    constexpr int kStepLines = StepLines(k.kValue), kRows = kTileKeys + 2 * kStepLines;
    Launch(stream,
           {.name = "grad_keys",
            .grid_x = plan.max_items,
            .num_threads = kGradThreads,
            .shared_bytes = RowBytes(kRows, k.kValue) + RowBytes(kRows, v.kValue) +
                            int64_t{2} * kStepLines * static_cast<int64_t>(sizeof(StepLine)) +
                            int64_t{2} * kListTiles * kMaskQueries},
           KeysKernel<k.kValue, v.kValue>, args);
  });
  Launch(stream, {.name = "grad_keys", .grid_x = plan.num_tiles, .num_threads = kGradThreads},
         AddSlotsKernel, args);
}

}  // namespace nsa::kernels::cuda
