#include <cstdint>

#include "kernels/cuda/grad_attention.h"
#include "kernels/cuda/grad_lines.h"
#include "kernels/cuda/grad_mma.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/reduce.h"
#include "kernels/cuda/softmax.h"

namespace nsa::kernels::cuda {
namespace {

/// A lane's part of the softmaxes of two lines, in units of log₂: maxima are of the whole line,
/// sums of the lane's own columns.
template <int kDimV>
struct LaneSoftmax {
  float maximum[2];
  float sum[2];
  float out[kDimV / 8][4];
};

/// Scores of one key tile become weights, in the frame of the new maxima.
template <int kDimV>
NSA_DEVICE void ToWeights(const uint64_t (&keys)[2], float factor,
                          float (&scores)[kTileKeys / 8][4], LaneSoftmax<kDimV>& softmax) {
  float maximum[2] = {softmax.maximum[0], softmax.maximum[1]};
  NSA_UNROLL
  for (int n = 0; n < kTileKeys / 8; ++n) {
    NSA_UNROLL
    for (int i = 0; i < 4; ++i) {
      scores[n][i] = HasKey(keys[i / 2], n, i) ? scores[n][i] * factor : -Infinity();
      maximum[i / 2] = Max(maximum[i / 2], scores[n][i]);
    }
  }
  float frame[2], before[2];
  NSA_UNROLL
  for (int half = 0; half < 2; ++half) {
    maximum[half] = Max(maximum[half], ShuffleXor(maximum[half], 1));
    maximum[half] = Max(maximum[half], ShuffleXor(maximum[half], 2));
    frame[half] = maximum[half] == -Infinity() ? 0 : maximum[half];
    before[half] = Exp2(softmax.maximum[half] - frame[half]);
    softmax.maximum[half] = maximum[half];
    softmax.sum[half] *= before[half];
  }
  NSA_UNROLL
  for (int n = 0; n < kTileKeys / 8; ++n) {
    NSA_UNROLL
    for (int i = 0; i < 4; ++i) {
      scores[n][i] = Exp2(scores[n][i] - frame[i / 2]);
      softmax.sum[i / 2] += scores[n][i];
    }
  }
  NSA_UNROLL
  for (int n = 0; n < kDimV / 8; ++n) {
    NSA_UNROLL
    for (int i = 0; i < 4; ++i) softmax.out[n][i] *= before[i / 2];
  }
}

/// out and lse of the lane's lines.
template <int kDimV>
NSA_DEVICE void StoreOut(const GradForward& call, const LaneLine (&lines)[2],
                         const LaneSoftmax<kDimV>& softmax) {
  float factors[2];
  NSA_UNROLL
  for (int half = 0; half < 2; ++half) {
    float sum = softmax.sum[half];
    sum += ShuffleXor(sum, 1);
    sum += ShuffleXor(sum, 2);
    const bool is_empty = sum == 0;  // and not where it is NaN
    factors[half] = is_empty ? 0 : 1 / sum;
    if (lines[half].is_there && LaneIndex() % 4 == 0) {
      call.lse[lines[half].row] = is_empty ? -Infinity() : softmax.maximum[half] * kLn2 + Log(sum);
    }
  }
  StoreLines<kDimV>(lines, factors, softmax.out, call.shape.dim_v, static_cast<Bf16*>(call.out));
}

/// A line tile and KV head a CTA, 16 lines a warp; key tiles come by one after the other, keys
/// while the values before are worked on, and the reverse.
template <int kDimK, int kDimV>
NSA_KERNEL(kGradThreads)
ForwardKernel(NSA_ARGS GradForward call) {
  const GradShape& s = call.shape;
  const LineTile t = LineTileOfCta(s);
  SharedArena arena;
  auto* q = arena.Take<Bf16>(kTileLines * Pitch(kDimK));
  auto* k = arena.Take<Bf16>(kTileKeys * Pitch(kDimK));
  auto* v = arena.Take<Bf16>(kTileKeys * Pitch(kDimV));
  const auto* all_k = static_cast<const Bf16*>(call.k);
  const auto* all_v = static_cast<const Bf16*>(call.v);
  const Bf16* own_q = q + WarpIndex() * 16 * Pitch(kDimK);
  const LaneLine lines[2] = {LaneLineAt(s, t, 0), LaneLineAt(s, t, 1)};
  LaneSoftmax<kDimV> softmax = {{-Infinity(), -Infinity()}, {0, 0}, {}};
  int tile = NextKeyTile(s, t, t.begin);
  if (tile < t.end) {
    CopyLines<kDimK>(s, t, static_cast<const Bf16*>(call.q), s.dim_k, q);
    CopyKeys<kDimK>(s, t, tile, all_k, s.dim_k, k);
  }
  CommitCopies();
  while (tile < t.end) {
    WaitCopies<0>();
    SyncThreads();  // keys are there; nobody reads the values before any more
    CopyKeys<kDimV>(s, t, tile, all_v, s.dim_v, v);
    CommitCopies();
    const uint64_t keys[2] = {LaneKeys(s, t, lines[0], tile), LaneKeys(s, t, lines[1], tile)};
    const bool sees = WarpSees(keys);
    float weights[kTileKeys / 8][4];
    Clear(weights);
    if (sees) {
      MultiplyRows<kDimK>(own_q, k, weights);
      ToWeights(keys, s.scale * kLog2E, weights, softmax);
    }
    tile = NextKeyTile(s, t, tile + 1);
    WaitCopies<0>();
    SyncThreads();  // values are there; nobody reads these keys any more
    if (tile < t.end) CopyKeys<kDimK>(s, t, tile, all_k, s.dim_k, k);
    CommitCopies();
    if (sees) MultiplyWeights<kDimV>(weights, v, softmax.out);
  }
  WaitCopies<0>();
  StoreOut(call, lines, softmax);
}

/// A warp a line, in T of any dimensions: a lane a key for scores, a dimension for the output.
template <typename T>
NSA_KERNEL(kGradThreads)
PlainForwardKernel(NSA_ARGS GradForward call) {
  const GradShape& s = call.shape;
  SharedArena arena;
  float* q = WarpMemory(arena, s.dim_k + s.dim_v + kWarpSize);
  float *out = q + s.dim_k, *weights = out + s.dim_v;
  const WarpLine line = LineOfWarp(s);
  if (!line.is_there) return;
  LoadRow(static_cast<const T*>(call.q) + line.row * s.dim_k, s.dim_k, q);
  for (int i = LaneIndex(); i < s.dim_v; i += kWarpSize) out[i] = 0;
  SyncWarp();
  Softmax softmax;
  const auto* all_k = static_cast<const T*>(call.k);
  const auto* all_v = static_cast<const T*>(call.v);
  ForEachKeyRun(s, line.tile, [&](const KeyRun& run) {
    const bool is_seen = run.Has(LaneIndex());
    const float score =
        is_seen ? s.scale * Dot(q, all_k + run.Row(LaneIndex()) * s.dim_k, s.dim_k) : -Infinity();
    const float maximum = WarpMaxOrNan(score);
    const float weight = is_seen ? Exp(score - maximum) : 0;
    const JoinFactors join = Join(softmax, maximum, WarpSum(weight));
    weights[LaneIndex()] = weight * join.added;  // nobody who came to WarpSum reads those before
    SyncWarp();
    for (int i = LaneIndex(); i < s.dim_v; i += kWarpSize) {
      float sum = out[i] * join.before;
      for (uint32_t left = run.keys; left != 0; left &= left - 1) {
        const int key = LowestBit(left);
        sum = Fma(weights[key], ToFloat(all_v[run.Row(key) * s.dim_v + i]), sum);
      }
      out[i] = sum;
    }
  });
  auto* result = static_cast<T*>(call.out) + line.row * s.dim_v;
  for (int i = LaneIndex(); i < s.dim_v; i += kWarpSize) {
    result[i] = FromFloat<T>(Quotient(out[i], softmax));
  }
  if (LaneIndex() == 0) call.lse[line.row] = LogSumExp(softmax);
}

}  // namespace

bool HasTensorShape(DType dtype, int dim_k, int dim_v) {
  return dtype == DType::kBF16 && dim_k % 8 == 0 && dim_v % 8 == 0 && dim_k <= 192 && dim_v <= 128;
}

void GradAttentionForward(Stream& stream, DType dtype, bool has_tensors, const GradForward& call) {
  const GradShape& s = call.shape;
  if (!has_tensors) {
    return WithGradType(dtype, [&](auto element) {
      Launch(stream, PlainShape("grad_forward", NumLines(s), s.dim_k + s.dim_v + kWarpSize),
             PlainForwardKernel<decltype(element)>, call);
    });
  }
  WithTensorDims(s.dim_k, s.dim_v, [&](auto k, auto v) {
    Launch(stream,
           {.name = "grad_forward",
            .grid_x = s.totals.line_tile * s.num_kv_heads,
            .num_threads = kGradThreads,
            .shared_bytes = 2 * RowBytes(kTileKeys, k.kValue) + RowBytes(kTileKeys, v.kValue)},
           ForwardKernel<k.kValue, v.kValue>, call);
  });
}

}  // namespace nsa::kernels::cuda
