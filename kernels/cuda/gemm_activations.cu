#include <cstddef>
#include <cstdint>

#include "kernels/activation.h"
#include "kernels/cuda/elements.h"
#include "kernels/cuda/gemm.h"
#include "kernels/cuda/launch.h"

namespace nsa::kernels::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kColumnsPerThread = 4;
constexpr int kThreadsPerStep = kStepColumns / kColumnsPerThread;

/// The four columns of this thread; zeros behind the last column and row.
struct Columns {
  int64_t first;
  float x[kColumnsPerThread];
};
NSA_DEVICE Columns LoadColumns(const LayOutXArgs& a) {
  Columns c = {(CtaY() * kThreads + ThreadIndex()) * kColumnsPerThread, {}};
  const float* x = a.x + CtaX() * a.x_stride;
  const int64_t end = CtaX() < a.num_rows ? a.num_columns : 0;
  NSA_UNROLL
  for (int i = 0; i < kColumnsPerThread; ++i) {
    c.x[i] = c.first + i < end ? x[c.first + i] : 0;
  }
  return c;
}

/// The greater of two magnitudes, and infinity or NaN where one is.
NSA_DEVICE float Greater(float x, float y) { return x != x || x > y ? x : y; }

/// Σ over the threads of 16 columns, or their steps' greatest magnitude, by neighbours.
NSA_DEVICE int32_t SumOfHalfStep(int32_t x) {
  for (int mask = 1; mask < kThreadsPerStep / 2; mask *= 2) x += ShuffleXor(x, mask);
  return x;
}
NSA_DEVICE float GreatestOfStep(float x) {
  for (int mask = 1; mask < kThreadsPerStep; mask *= 2) x = Greater(x, ShuffleXor(x, mask));
  return x;
}

/// kernels/activation.h on the device.
struct StepScale {
  float scale;
  float inverse;  // 0: all integers are zeros
};
NSA_DEVICE StepScale ScaleOf(float greatest) {
  constexpr auto kMax = static_cast<float>(kActivationMax);
  if (!(greatest < Infinity())) return {NotANumber(), 0};
  const float inverse = kMax / greatest;
  return {greatest / kMax, inverse < Infinity() ? inverse : 0};
}
NSA_DEVICE int32_t Quantise(float x, float inverse) {
  if (inverse == 0) return 0;
  const auto q = static_cast<int32_t>(RoundEven(x * inverse));
  const int32_t at_most = q < kActivationMax ? q : kActivationMax;
  return at_most > -kActivationMax ? at_most : -kActivationMax;
}

/// CTA (r, c): columns [c·1024, …) of row r; eight threads have a step.
NSA_KERNEL(kThreads) QuantiseKernel(NSA_ARGS LayOutXArgs a) {
  const Columns c = LoadColumns(a);
  float greatest = 0;
  NSA_UNROLL
  for (int i = 0; i < kColumnsPerThread; ++i) greatest = Greater(Abs(c.x[i]), greatest);
  const StepScale of_step = ScaleOf(GreatestOfStep(greatest));
  uint32_t high = 0, low = 0;
  int32_t sum = 0;
  NSA_UNROLL
  for (int i = 0; i < kColumnsPerThread; ++i) {
    const int32_t q = Quantise(c.x[i], of_step.inverse);
    sum += q;
    low |= static_cast<uint32_t>(q & 0xFF) << (8 * i);
    high |= static_cast<uint32_t>((q + 128) >> 8 & 0xFF) << (8 * i);
  }
  sum = SumOfHalfStep(sum);
  const int32_t sum_of_both = sum + ShuffleXor(sum, kThreadsPerStep / 2);
  if (c.first >= a.num_columns) return;
  const auto row = static_cast<int>(CtaX() % kBlockXRows);
  std::byte* step = a.target + CtaX() / kBlockXRows * a.block_bytes +
                    c.first / kStepColumns * kQuantisedStepBytes;
  const int place = ThreadIndex() % kThreadsPerStep, half = place / 4;
  auto* lane = reinterpret_cast<uint32_t*>(step) + (row * 4 + place % 4) * 4;
  lane[half] = high;
  lane[2 + half] = low;
  if (place % 4 != 0) return;
  auto* of_row = reinterpret_cast<float*>(step + 512) + row;
  reinterpret_cast<int32_t*>(of_row)[(2 + half) * kBlockXRows] = sum;
  if (half != 0) return;
  of_row[0] = of_step.scale;
  of_row[kBlockXRows] = of_step.scale * static_cast<float>(sum_of_both);
}

/// CTA (r, c): columns [c·1024, …) of row r; eight threads have a step.
NSA_KERNEL(kThreads) SplitKernel(NSA_ARGS LayOutXArgs a) {
  Columns c = LoadColumns(a);
  const int place = ThreadIndex() % kThreadsPerStep;
  if (c.first - place * kColumnsPerThread >= a.num_columns) return;
  const auto row = static_cast<int>(CtaX() % kBlockXRows);
  auto* step = reinterpret_cast<uint32_t*>(a.target + CtaX() / kBlockXRows * a.block_bytes +
                                           c.first / kStepColumns * kDenseStepBytes);
  NSA_UNROLL
  for (int term = 0; term < 3; ++term) {
    NSA_UNROLL
    for (int pair = 0; pair < 2; ++pair) {
      // Pair p of 16 columns is register p / 4 of lane p % 4 of its row.
      const int p = place % 4 * 2 + pair;
      const uint32_t low = TakeTerm(c.x[2 * pair]);
      const uint32_t high = TakeTerm(c.x[2 * pair + 1]);
      step[(term * kWarpSize + row * 4 + p % 4) * 4 + place / 4 * 2 + p / 4] = low | high << 16;
    }
  }
}

}  // namespace

void LayOutX(Stream& stream, bool is_quantised, const LayOutXArgs& args) {
  Launch(stream,
         {.name = is_quantised ? "gemm_quantise" : "gemm_split",
          .grid_x = CeilDiv(args.num_rows, kBlockXRows) * kBlockXRows,
          .grid_y = CeilDiv(args.num_columns, kThreads * kColumnsPerThread),
          .num_threads = kThreads},
         is_quantised ? QuantiseKernel : SplitKernel, args);
}

}  // namespace nsa::kernels::cuda
