#include <cstdint>

#include "kernels/cuda/choose_blocks.h"
#include "kernels/cuda/grad_attention.h"
#include "kernels/cuda/grad_lines.h"
#include "kernels/cuda/grad_mma.h"
#include "kernels/cuda/launch.h"

namespace nsa::kernels::cuda {
namespace {

/// Floats between lines of probabilities in shared memory.
constexpr int kProbabilityPitch = kTileKeys + 1;

/// Of query `query` of line tile `tile` of all and KV head `kv_head`.
NSA_DEVICE int64_t ChoiceRow(const GradChoice& choice, int64_t tile, int query, int kv_head) {
  const GradShape& s = choice.forward.shape;
  return ((tile - choice.begin) * s.tile_queries + query) * s.num_kv_heads + kv_head;
}

/// Probabilities of the warp's 16 lines, 0 where a line does not see the key.
NSA_DEVICE void StoreProbabilities(const uint64_t (&keys)[2], const float (&lse)[2], float factor,
                                   const float (&scores)[kTileKeys / 8][4], float* to) {
  NSA_UNROLL
  for (int n = 0; n < kTileKeys / 8; ++n) {
    NSA_UNROLL
    for (int i = 0; i < 4; ++i) {
      const int line = WarpIndex() * 16 + LaneIndex() / 4 + i / 2 * 8;
      const int key = 8 * n + LaneIndex() % 4 * 2 + i % 2;
      to[line * kProbabilityPitch + key] =
          HasKey(keys[i / 2], n, i) ? Exp2(scores[n][i] * factor - lse[i / 2]) : 0;
    }
  }
}

/// Eq. 10, of the probabilities of one key tile: the sum of the group's heads, in order.
NSA_DEVICE void AddGroup(const GradChoice& choice, const LineTile& t, int64_t index, int tile,
                         const float* probabilities) {
  const int group = choice.forward.shape.group;
  for (int i = ThreadIndex(); i < t.num_queries * kTileKeys; i += NumThreads()) {
    const int query = i / kTileKeys, key = i % kTileKeys;
    const int64_t window = int64_t{tile} * kTileKeys + key;
    if (window >= t.num_keys) continue;
    float sum = 0;
    for (int head = 0; head < group; ++head) {
      sum += probabilities[(query * group + head) * kProbabilityPitch + key];
    }
    choice.probabilities[ChoiceRow(choice, index, query, t.kv_head) * choice.max_windows + window] =
        sum;
  }
}

/// CTA (i): line tile and KV head i of those that are chosen for; as the forward, whose
/// log-sum-exps are there.
template <int kDimK>
NSA_KERNEL(kGradThreads)
ProbabilitiesKernel(NSA_ARGS GradChoice choice) {
  const GradForward& call = choice.forward;
  const GradShape& s = call.shape;
  const Split place = SplitIndex(CtaX(), s.num_kv_heads);
  const int64_t index = choice.begin + place.quotient;
  const LineTile t = LineTileAt(s, index, static_cast<int>(place.remainder));
  SharedArena arena;
  auto* q = arena.Take<Bf16>(kTileLines * Pitch(kDimK));
  auto* k = arena.Take<Bf16>(kTileKeys * Pitch(kDimK));
  auto* probabilities = arena.Take<float>(kTileLines * kProbabilityPitch);
  const LaneLine lines[2] = {LaneLineAt(s, t, 0), LaneLineAt(s, t, 1)};
  const float lse[2] = {lines[0].is_there ? call.lse[lines[0].row] * kLog2E : 0,
                        lines[1].is_there ? call.lse[lines[1].row] * kLog2E : 0};
  if (t.end > 0) CopyLines<kDimK>(s, t, static_cast<const Bf16*>(call.q), s.dim_k, q);
  for (int tile = 0; tile < t.end; ++tile) {
    CopyKeys<kDimK>(s, t, tile, static_cast<const Bf16*>(call.k), s.dim_k, k);
    CommitCopies();
    const uint64_t keys[2] = {LaneKeys(s, t, lines[0], tile), LaneKeys(s, t, lines[1], tile)};
    WaitCopies<0>();
    SyncThreads();  // keys are there; nobody reads the probabilities before any more
    float scores[kTileKeys / 8][4];
    Clear(scores);
    MultiplyRows<kDimK>(q + WarpIndex() * 16 * Pitch(kDimK), k, scores);
    StoreProbabilities(keys, lse, s.scale * kLog2E, scores, probabilities);
    SyncThreads();  // probabilities are there; nobody reads the keys any more
    AddGroup(choice, t, index, tile, probabilities);
  }
}

/// A warp a query and KV head, a lane a window.
template <typename T>
NSA_KERNEL(kGradThreads)
PlainProbabilitiesKernel(NSA_ARGS GradChoice choice) {
  const GradForward& call = choice.forward;
  const GradShape& s = call.shape;
  const Split by_head = SplitIndex(ItemOfWarp(), s.num_kv_heads);
  const Split by_query = SplitIndex(by_head.quotient, s.tile_queries);
  const int64_t index = choice.begin + by_query.quotient;
  if (index >= choice.end) return;
  const auto query = static_cast<int>(by_query.remainder);
  const auto kv_head = static_cast<int>(by_head.remainder);
  LineTile t = LineTileAt(s, index, kv_head);
  if (query >= t.num_queries) return;
  t.position += query;
  t.token += query;
  const int num_seen = SeenBy(s, t.position).end;
  float* to = choice.probabilities + ChoiceRow(choice, index, query, kv_head) * choice.max_windows;
  for (int window = LaneIndex(); window < num_seen; window += kWarpSize) {
    const T* k = static_cast<const T*>(call.k) + KeyRow(s, t.key + window, kv_head) * s.dim_k;
    float sum = 0;
    for (int head = 0; head < s.group; ++head) {
      const int64_t row = QueryRow(s, t.token, kv_head, head);
      const T* q = static_cast<const T*>(call.q) + row * s.dim_k;
      sum += Exp(s.scale * Dot(q, k, s.dim_k) - call.lse[row]);
    }
    to[window] = sum;
  }
}

/// Eq. 9: of each window's probability as much as it has strides in the block.
NSA_DEVICE float BlockScore(const GradShape& s, const float* probabilities, int num_seen,
                            int block) {
  const auto windows = static_cast<int>(SplitIndex(s.length, s.stride).quotient);
  const auto strides = static_cast<int>(SplitIndex(s.sel_block_size, s.stride).quotient);
  const int begin = block * strides, end = begin + strides;
  const int first = begin - windows + 1 > 0 ? begin - windows + 1 : 0;
  float score = 0;
  for (int i = first; i < end && i < num_seen; ++i) {
    const int from = i > begin ? i : begin, to = i + windows < end ? i + windows : end;
    score = Fma(static_cast<float>(to - from), probabilities[i], score);
  }
  return score;
}

/// CTA (i): Eq. 11 and 12 for query and KV head i of the line tiles.
NSA_KERNEL(kMaxChooserThreads) ChooseKernel(NSA_ARGS GradChoice choice) {
  const GradShape& s = choice.forward.shape;
  const Split by_head = SplitIndex(CtaX(), s.num_kv_heads);
  const Split by_query = SplitIndex(by_head.quotient, s.tile_queries);
  const auto query = static_cast<int>(by_query.remainder);
  const LineTile t = LineTileAt(s, choice.begin + by_query.quotient, 0);
  if (query >= t.num_queries) return;
  const int position = t.position + query, num_seen = SeenBy(s, position).end;
  const auto num_blocks = static_cast<int>(SplitIndex(position, s.sel_block_size).quotient) + 1;
  const int64_t list = KeyRow(s, t.token + query, static_cast<int>(by_head.remainder));
  int32_t* selected = choice.selected + list * s.num_selected;
  int count = num_blocks;
  if (num_blocks <= s.num_selected) {
    for (int i = ThreadIndex(); i < count; i += NumThreads()) selected[i] = i;
  } else {
    const float* probabilities = choice.probabilities + CtaX() * choice.max_windows;
    uint32_t* keys = choice.keys + CtaX() * choice.max_blocks;
    for (int block = ThreadIndex(); block < num_blocks; block += NumThreads()) {
      const bool is_forced =
          block < choice.num_initial_blocks || block >= num_blocks - choice.num_local_blocks;
      keys[block] = is_forced ? kForcedKey : KeyOf(BlockScore(s, probabilities, num_seen, block));
    }
    // A thread reads those keys that it wrote.
    count = static_cast<int>(ChooseBlocks(keys, num_blocks, static_cast<uint32_t>(s.num_selected),
                                          static_cast<int>(NumSharedKeys(choice.max_blocks)),
                                          selected));
  }
  for (int i = count + ThreadIndex(); i < s.num_selected; i += NumThreads()) selected[i] = -1;
}

}  // namespace

void GradChoose(Stream& stream, DType dtype, bool has_tensors, const GradChoice& call) {
  const GradShape& s = call.forward.shape;
  const int64_t num_tiles = call.end - call.begin;
  const int64_t num_rows = num_tiles * s.tile_queries * s.num_kv_heads;
  const char* name = "grad_choose";
  if (has_tensors) {
    WithTensorDims(s.dim_k, 8, [&](auto k, auto) {
      Launch(stream,
             {.name = name,
              .grid_x = num_tiles * s.num_kv_heads,
              .num_threads = kGradThreads,
              .shared_bytes =
                  2 * RowBytes(kTileKeys, k.kValue) + int64_t{4} * kTileLines * kProbabilityPitch},
             ProbabilitiesKernel<k.kValue>, call);
    });
  } else {
    WithGradType(dtype, [&](auto element) {
      Launch(stream, PlainShape(name, num_rows, 0), PlainProbabilitiesKernel<decltype(element)>,
             call);
    });
  }
  Launch(stream,
         {.name = name,
          .grid_x = num_rows,
          .num_threads = NumChooserThreads(call.max_blocks),
          .shared_bytes = ChooserBytes(call.max_blocks)},
         ChooseKernel, call);
}

}  // namespace nsa::kernels::cuda
