#include <cstdint>

#include "kernels/cuda/grad_attention.h"
#include "kernels/cuda/grad_backward.h"
#include "kernels/cuda/grad_lines.h"
#include "kernels/cuda/grad_mma.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/reduce.h"

namespace nsa::kernels::cuda {
namespace {

/// A warp a row: Σ grad_out·out (FlashAttention-2, arXiv 2307.08691, Algorithm 2, line 4).
template <typename T>
NSA_KERNEL(kGradThreads)
DeltaKernel(NSA_ARGS GradBackward call) {
  const int64_t row = ItemOfWarp();
  if (row >= call.shape.totals.token * call.shape.num_q_heads) return;
  const int dims = call.shape.dim_v;
  const T* out = static_cast<const T*>(call.out) + row * dims;
  const T* grad_out = static_cast<const T*>(call.grad_out) + row * dims;
  float sum = 0;
  for (int i = LaneIndex(); i < dims; i += kWarpSize) {
    sum = Fma(ToFloat(out[i]), ToFloat(grad_out[i]), sum);
  }
  sum = WarpSum(sum);
  if (LaneIndex() == 0) call.deltas[row] = sum;
}

/// What of the two lines the scores' gradients need.
struct LaneSaved {
  float lse[2];
  float delta[2];
};
NSA_DEVICE LaneSaved LoadSaved(const GradBackward& call, const LaneLine (&lines)[2]) {
  LaneSaved saved = {};
  NSA_UNROLL
  for (int half = 0; half < 2; ++half) {
    if (!lines[half].is_there) continue;
    saved.lse[half] = call.lse[lines[half].row] * kLog2E;
    saved.delta[half] = call.deltas[lines[half].row];
  }
  return saved;
}

/// Of a key tile: scores become their gradients.
NSA_DEVICE void ToGradScores(const uint64_t (&keys)[2], const LaneSaved& saved, float factor,
                             const float (&grad_p)[kTileKeys / 8][4],
                             float (&scores)[kTileKeys / 8][4]) {
  NSA_UNROLL
  for (int n = 0; n < kTileKeys / 8; ++n) {
    NSA_UNROLL
    for (int i = 0; i < 4; ++i) {
      scores[n][i] = ToGradScore(HasKey(keys[i / 2], n, i), scores[n][i] * factor, saved.lse[i / 2],
                                 grad_p[n][i], saved.delta[i / 2])
                         .ds;
    }
  }
}

/// dQ; CTAs and warps as in the forward, which walks the same key tiles.
template <int kDimK, int kDimV>
NSA_KERNEL(kGradThreads)
QueriesKernel(NSA_ARGS GradBackward call) {
  const GradShape& s = call.shape;
  const LineTile t = LineTileOfCta(s);
  SharedArena arena;
  auto* q = arena.Take<Bf16>(kTileLines * Pitch(kDimK));
  auto* grad_out = arena.Take<Bf16>(kTileLines * Pitch(kDimV));
  auto* k = arena.Take<Bf16>(kTileKeys * Pitch(kDimK));
  auto* v = arena.Take<Bf16>(kTileKeys * Pitch(kDimV));
  const LaneLine lines[2] = {LaneLineAt(s, t, 0), LaneLineAt(s, t, 1)};
  const LaneSaved saved = LoadSaved(call, lines);
  const int first_line = WarpIndex() * 16;
  float grad_q[kDimK / 8][4];
  Clear(grad_q);
  int tile = NextKeyTile(s, t, t.begin);
  if (tile < t.end) {
    CopyLines<kDimK>(s, t, static_cast<const Bf16*>(call.q), s.dim_k, q);
    CopyLines<kDimV>(s, t, static_cast<const Bf16*>(call.grad_out), s.dim_v, grad_out);
  }
  while (tile < t.end) {
    CopyKeys<kDimK>(s, t, tile, static_cast<const Bf16*>(call.k), s.dim_k, k);
    CopyKeys<kDimV>(s, t, tile, static_cast<const Bf16*>(call.v), s.dim_v, v);
    CommitCopies();
    const uint64_t keys[2] = {LaneKeys(s, t, lines[0], tile), LaneKeys(s, t, lines[1], tile)};
    const bool sees = WarpSees(keys);
    tile = NextKeyTile(s, t, tile + 1);
    WaitCopies<0>();
    SyncThreads();  // keys and values are there
    if (sees) {
      float scores[kTileKeys / 8][4], grad_p[kTileKeys / 8][4];
      Clear(scores);
      Clear(grad_p);
      MultiplyRows<kDimK>(q + first_line * Pitch(kDimK), k, scores);
      MultiplyRows<kDimV>(grad_out + first_line * Pitch(kDimV), v, grad_p);
      ToGradScores(keys, saved, s.scale * kLog2E, grad_p, scores);
      MultiplyWeights<kDimK>(scores, k, grad_q);
    }
    if (tile < t.end) SyncThreads();  // nobody reads them any more
  }
  const float factors[2] = {s.scale, s.scale};
  StoreLines<kDimK>(lines, factors, grad_q, s.dim_k, static_cast<Bf16*>(call.grad_q));
}

/// A warp a line, as in the plain forward.
template <typename T>
NSA_KERNEL(kGradThreads)
PlainQueriesKernel(NSA_ARGS GradBackward call) {
  const GradShape& s = call.shape;
  SharedArena arena;
  float* q = WarpMemory(arena, 2 * s.dim_k + s.dim_v + kWarpSize);
  float *grad_out = q + s.dim_k, *grad_q = grad_out + s.dim_v, *weights = grad_q + s.dim_k;
  const WarpLine line = LineOfWarp(s);
  if (!line.is_there) return;
  LoadRow(static_cast<const T*>(call.q) + line.row * s.dim_k, s.dim_k, q);
  LoadRow(static_cast<const T*>(call.grad_out) + line.row * s.dim_v, s.dim_v, grad_out);
  for (int i = LaneIndex(); i < s.dim_k; i += kWarpSize) grad_q[i] = 0;
  SyncWarp();
  const float lse = call.lse[line.row], delta = call.deltas[line.row];
  const auto* all_k = static_cast<const T*>(call.k);
  const auto* all_v = static_cast<const T*>(call.v);
  ForEachKeyRun(s, line.tile, [&](const KeyRun& run) {
    float ds = 0;
    if (run.Has(LaneIndex())) {
      const int64_t row = run.Row(LaneIndex());
      const float score = s.scale * Dot(q, all_k + row * s.dim_k, s.dim_k);
      ds = Exp(score - lse) * (Dot(grad_out, all_v + row * s.dim_v, s.dim_v) - delta);
    }
    weights[LaneIndex()] = ds;
    SyncWarp();
    for (int i = LaneIndex(); i < s.dim_k; i += kWarpSize) {
      float sum = grad_q[i];
      for (uint32_t left = run.keys; left != 0; left &= left - 1) {
        const int key = LowestBit(left);
        sum = Fma(weights[key], ToFloat(all_k[run.Row(key) * s.dim_k + i]), sum);
      }
      grad_q[i] = sum;
    }
    SyncWarp();  // nobody reads the weights any more
  });
  auto* result = static_cast<T*>(call.grad_q) + line.row * s.dim_k;
  for (int i = LaneIndex(); i < s.dim_k; i += kWarpSize) {
    result[i] = FromFloat<T>(grad_q[i] * s.scale);
  }
}

}  // namespace

void GradDeltas(Stream& stream, DType dtype, const GradBackward& call) {
  WithGradType(dtype, [&](auto element) {
    Launch(stream, PlainShape("grad_deltas", NumLines(call.shape), 0),
           DeltaKernel<decltype(element)>, call);
  });
}

void GradAttentionQueries(Stream& stream, DType dtype, bool has_tensors, const GradBackward& call) {
  const GradShape& s = call.shape;
  if (!has_tensors) {
    return WithGradType(dtype, [&](auto element) {
      Launch(stream, PlainShape("grad_queries", NumLines(s), 2 * s.dim_k + s.dim_v + kWarpSize),
             PlainQueriesKernel<decltype(element)>, call);
    });
  }
  WithTensorDims(s.dim_k, s.dim_v, [&](auto k, auto v) {
    Launch(stream,
           {.name = "grad_queries",
            .grid_x = s.totals.line_tile * s.num_kv_heads,
            .num_threads = kGradThreads,
            .shared_bytes = 2 * (RowBytes(kTileKeys, k.kValue) + RowBytes(kTileKeys, v.kValue))},
           QueriesKernel<k.kValue, v.kValue>, call);
  });
}

}  // namespace nsa::kernels::cuda
