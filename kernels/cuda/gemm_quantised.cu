#include <cstddef>
#include <cstdint>

#include "kernels/check.h"
#include "kernels/cuda/gemm.h"
#include "kernels/cuda/gemm_quantised.h"
#include "kernels/cuda/gemm_tile.h"
#include "kernels/cuda/launch.h"

namespace nsa::kernels::cuda {
namespace {

/// Many rows (gemm_tile.h): a lane makes the sums of a step and adds them to its chains.
template <WeightType kType>
class QuantisedCore {
 public:
  using F = Format<kType>;
  static constexpr int kUnitColumns = F::kUnitColumns;
  static constexpr int kUnitBytes = F::kUnitBytes;
  static constexpr int kSuperBytes = F::kHasSupers ? cuda::kSuperBytes : 0;
  static constexpr int kXUnitBytes = 2 * kQuantisedStepBytes;
  static constexpr int kStages = 3;
  static constexpr int kCtas = 2;
  static constexpr int kOwnBytes = 0;

  NSA_DEVICE explicit QuantisedCore(SharedArena&) {}

  NSA_DEVICE void Add(const std::byte* w, const std::byte* supers, const std::byte* x,
                      int num_steps) {
    UnitShare<kType> q[kWarpBlocks];
    NSA_UNROLL
    for (int m = 0; m < kWarpBlocks; ++m) {
      q[m].Read(w + m * kUnitBytes, [](const U32x4* from) { return LoadVector(from); });
    }
    NSA_UNROLL_BY(1)  // two steps at once would take more registers than two CTAs leave
    for (int step = 0; step < 2 && step < num_steps; ++step) {
      AddStep(q, w, supers, x + step * kQuantisedStepBytes, step);
    }
  }

  NSA_DEVICE float Sum(int m, int n, int i) const { return sums_[m][n][i]; }

 private:
  NSA_DEVICE void AddStep(const UnitShare<kType> (&q)[kWarpBlocks], const std::byte* w,
                          const std::byte* supers, const std::byte* x, int step) {
    uint32_t a[kWarpBlocks][4];
    Coefficients<kType> c[kWarpBlocks][2];
    NSA_UNROLL
    for (int m = 0; m < kWarpBlocks; ++m) {
      q[m].Unpack(step, a[m]);
      NSA_UNROLL
      for (int i = 0; i < 2; ++i) {
        c[m][i] = LoadCoefficients<kType>(w + m * kUnitBytes, supers + m * kSuperBytes, step,
                                          LaneIndex() / 4 + 8 * i);
      }
    }
    NSA_UNROLL
    for (int n = 0; n < kWarpXBlocks; ++n) {
      const std::byte* x_step = x + n * kXUnitBytes;
      const U32x4 b = LoadVector(reinterpret_cast<const U32x4*>(x_step) + LaneIndex());
      const XSteps of_rows = LoadXSteps(x_step);
      NSA_UNROLL
      for (int m = 0; m < kWarpBlocks; ++m) AddTile(a[m], c[m], b, of_rows, sums_[m][n]);
    }
  }

  /// Of the lane's two rows of x; of what the format does not ask for, nothing is read.
  struct XSteps {
    XStep of[2];
  };
  NSA_DEVICE static XSteps LoadXSteps(const std::byte* x_step) {
    const auto* pairs = reinterpret_cast<const FloatPair*>(x_step + 512) + LaneIndex() % 4;
    const auto* integers = reinterpret_cast<const IntPair*>(pairs);
    constexpr int kStride = kBlockXRows / 2;
    XSteps x = {};
    NSA_UNROLL
    for (int i = 0; i < 2; ++i) {
      x.of[i].scale = pairs[0].x[i];
      if (F::kHasMinimum) x.of[i].scaled_sum = pairs[kStride].x[i];
      if (F::kOffset == 0) continue;
      x.of[i].sums[0] = integers[2 * kStride].x[i];
      x.of[i].sums[1] = integers[3 * kStride].x[i];
    }
    return x;
  }

  template <int kScale>
  NSA_DEVICE static void AddScale(const uint32_t (&a)[4], const Coefficients<kType> (&c)[2],
                                  const U32x4& b, const XSteps& x, float (&sums)[4]) {
    const int32_t first[2] = {Correction<kType, kScale>(x.of[0]),
                              Correction<kType, kScale>(x.of[1])};
    int32_t d[4];
    StepProducts<kType, kScale>(a, b, first, d);
    NSA_UNROLL
    for (int i = 0; i < 4; ++i) {
      sums[i] = AddScaled(d[i], c[i / 2].scale[kScale], x.of[i % 2].scale, sums[i]);
    }
  }

  NSA_DEVICE static void AddTile(const uint32_t (&a)[4], const Coefficients<kType> (&c)[2],
                                 const U32x4& b, const XSteps& x, float (&sums)[4]) {
    AddScale<0>(a, c, b, x, sums);
    if constexpr (F::kScales == 2) AddScale<1>(a, c, b, x, sums);
    if constexpr (F::kHasMinimum) {
      NSA_UNROLL
      for (int i = 0; i < 4; ++i) {
        sums[i] = Fma(c[i / 2].minimum, x.of[i % 2].scaled_sum, sums[i]);
      }
    }
  }

  float sums_[kWarpBlocks][kWarpXBlocks][4] = {};
};

constexpr int kFewThreads = 256;
constexpr int kFewWarps = kFewThreads / kWarpSize;
constexpr int kTile = kBlockRows * kBlockXRows;

/// Few rows: a CTA has 16 outputs and up to 8 rows, and goes over the columns round by round. In a
/// round each warp makes the integer sums of some steps; then one thread for each output and row
/// adds them to its chain in order.
template <WeightType kType>
struct Round {
  using F = Format<kType>;
  static constexpr int kScales = F::kScales;
  static constexpr int kUnitsPerWarp = 4 / kScales;
  static constexpr int kUnits = kUnitsPerWarp * kFewWarps;
  static constexpr int kSteps = 2 * kUnits;
  static constexpr int kXFloats = 4 * kBlockXRows;
  static constexpr int64_t kBytes =
      int64_t{4} * kSteps * (kScales * kTile + (kScales + 1) * kBlockRows + kXFloats);

  int32_t* products;  // [kSteps, kScales, 16 outputs, 8 rows]
  float* scales;      // [kSteps, kScales, 16 outputs]
  float* minima;      // [kSteps, 16 outputs]
  float* x;           // [kSteps, 4, 8 rows], the end of a step of x
};

/// What a CTA of few rows works on.
struct FewTask {
  const std::byte* block;  // of W
  const std::byte* x;      // block of rows
  int64_t block_index;
  int64_t first_row;
  int num_rows;
};

/// Coefficients and scales of the round's steps, to shared memory.
template <WeightType kType>
NSA_DEVICE void LoadScales(const GemmPart& p, const FewTask& task, int first_unit, int num_steps,
                           const Round<kType>& round) {
  using R = Round<kType>;
  constexpr int kChunks = R::kXFloats / 4;
  for (int i = ThreadIndex(); i < num_steps * kChunks; i += kFewThreads) {
    const std::byte* step = task.x + (int64_t{2} * first_unit + i / kChunks) * kQuantisedStepBytes;
    CopyAsync(round.x + 4 * i, step + 512 + i % kChunks * 16);
  }
  CommitCopies();
  const std::byte* supers = task.block + int64_t{p.num_units} * R::F::kUnitBytes;
  for (int i = ThreadIndex(); i < num_steps * kBlockRows; i += kFewThreads) {
    const int step = i / kBlockRows, r = i % kBlockRows, unit = first_unit + step / 2;
    const Coefficients<kType> c = LoadCoefficients<kType>(
        task.block + int64_t{unit} * R::F::kUnitBytes,
        supers + unit * R::F::kUnitColumns / kSuperColumns * kSuperBytes, step % 2, r);
    NSA_UNROLL
    for (int s = 0; s < R::kScales; ++s) {
      round.scales[(step * R::kScales + s) * kBlockRows + r] = c.scale[s];
    }
    if (R::F::kHasMinimum) round.minima[i] = c.minimum;
  }
}

/// A lane stores D for its two outputs, of two rows each.
template <WeightType kType, int kScale>
NSA_DEVICE void StoreProducts(const uint32_t (&a)[4], const U32x4& b, int32_t* products) {
  int32_t d[4];
  StepProducts<kType, kScale>(a, b, {0, 0}, d);
  auto* pairs = reinterpret_cast<IntPair*>(products + kScale * kTile);
  pairs[LaneIndex()] = {d[0], d[1]};
  pairs[LaneIndex() + kWarpSize] = {d[2], d[3]};
}

/// The warp's units of the round that begins at `first_unit`; none behind the last.
template <WeightType kType>
NSA_DEVICE void ReadUnits(const GemmPart& p, const FewTask& task, int first_unit,
                          UnitShare<kType> (&q)[Round<kType>::kUnitsPerWarp]) {
  using R = Round<kType>;
  NSA_UNROLL
  for (int i = 0; i < R::kUnitsPerWarp; ++i) {
    const int unit = first_unit + i * kFewWarps + WarpIndex();
    if (unit >= p.num_units) continue;
    q[i].Read(task.block + int64_t{unit} * R::F::kUnitBytes,
              [](const U32x4* from) { return LoadOnce(from); });
  }
}

/// The integer sums of the warp's steps. Of x, rows are read that are there.
template <WeightType kType>
NSA_DEVICE void MakeProducts(const FewTask& task, int first_unit, int num_steps,
                             const UnitShare<kType> (&q)[Round<kType>::kUnitsPerWarp],
                             const Round<kType>& round) {
  using R = Round<kType>;
  NSA_UNROLL
  for (int i = 0; i < 2 * R::kUnitsPerWarp; ++i) {
    const int step = 2 * (i / 2 * kFewWarps + WarpIndex()) + i % 2;
    if (step >= num_steps) continue;
    U32x4 b = {};
    if (LaneIndex() / 4 < task.num_rows) {
      const std::byte* x_step = task.x + (int64_t{2} * first_unit + step) * kQuantisedStepBytes;
      b = LoadVector(reinterpret_cast<const U32x4*>(x_step) + LaneIndex());
    }
    uint32_t a[4];
    q[i / 2].Unpack(i % 2, a);
    int32_t* products = round.products + step * R::kScales * kTile;
    StoreProducts<kType, 0>(a, b, products);
    if constexpr (R::kScales == 2) StoreProducts<kType, 1>(a, b, products);
  }
}

/// This thread's chain over the round's steps.
template <WeightType kType>
NSA_DEVICE float AddRound(const Round<kType>& round, int num_steps, int output, int row,
                          float sum) {
  using R = Round<kType>;
  NSA_UNROLL_BY(8)
  for (int step = 0; step < num_steps; ++step) {
    const float* of_step = round.x + step * R::kXFloats + row;
    const auto* integers = reinterpret_cast<const int32_t*>(of_step);
    const XStep x = {
        of_step[0], of_step[kBlockXRows], {integers[2 * kBlockXRows], integers[3 * kBlockXRows]}};
    const int at = step * R::kScales;
    const int32_t* products = round.products + at * kTile + output * kBlockXRows + row;
    const float* scales = round.scales + at * kBlockRows + output;
    sum = AddScaled(products[0] + Correction<kType, 0>(x), scales[0], x.scale, sum);
    if constexpr (R::kScales == 2) {
      sum = AddScaled(products[kTile] + Correction<kType, 1>(x), scales[kBlockRows], x.scale, sum);
    }
    if constexpr (R::F::kHasMinimum) {
      sum = Fma(round.minima[step * kBlockRows + output], x.scaled_sum, sum);
    }
  }
  return sum;
}

/// CTA i: block i / num_x_blocks of W, and of x the block of the remainder: those that read the
/// same W run at the same time, and only one of them has to ask memory for it.
template <WeightType kType>
NSA_KERNEL(kFewThreads)
FewRowsKernel(NSA_ARGS GemmPart p) {
  using R = Round<kType>;
  SharedArena arena;
  Round<kType> round;
  round.products = arena.Take<int32_t>(R::kSteps * R::kScales * kTile);
  round.scales = arena.Take<float>(R::kSteps * R::kScales * kBlockRows);
  round.minima = arena.Take<float>(R::kSteps * kBlockRows);
  round.x = arena.Take<float>(R::kSteps * R::kXFloats);
  const Split at = SplitIndex(CtaX(), p.num_x_blocks);
  const int64_t first_row = at.remainder * kBlockXRows;
  const int64_t rows_left = p.num_rows - first_row;
  const FewTask task = {p.blocks + at.quotient * p.block_bytes,
                        p.x + at.remainder * p.x_block_bytes, at.quotient, first_row,
                        rows_left < kBlockXRows ? static_cast<int>(rows_left) : kBlockXRows};
  const int output = ThreadIndex() / task.num_rows, row = ThreadIndex() % task.num_rows;
  float sum = 0;
  UnitShare<kType> q[R::kUnitsPerWarp] = {};
  ReadUnits(p, task, 0, q);
  for (int unit = 0; unit < p.num_units; unit += R::kUnits) {
    const int steps_left = p.num_steps - 2 * unit;
    const int num_steps = steps_left < R::kSteps ? steps_left : R::kSteps;
    LoadScales(p, task, unit, num_steps, round);
    MakeProducts(task, unit, num_steps, q, round);
    WaitCopies<0>();
    SyncThreads();
    ReadUnits(p, task, unit + R::kUnits, q);  // on their way while chains go on
    if (output < kBlockRows) sum = AddRound(round, num_steps, output, row, sum);
    SyncThreads();
  }
  const int64_t index = task.block_index * kBlockRows + output;
  if (output < kBlockRows && index < p.num_outputs) {
    StoreOutput(p, task.first_row + row, index, sum);
  }
}

template <WeightType kType>
void LaunchType(Stream& stream, const GemmPart& part) {
  if (part.num_rows > kFewRows) {
    return LaunchTiles<QuantisedCore<kType>>(stream, "gemm_quantised", part);
  }
  Launch(stream,
         {.name = "gemm_quantised_few_rows",
          .grid_x = part.num_blocks * part.num_x_blocks,
          .num_threads = kFewThreads,
          .shared_bytes = Round<kType>::kBytes},
         FewRowsKernel<kType>, part);
}

}  // namespace

void LaunchQuantisedGemm(Stream& stream, WeightType type, const GemmPart& part) {
  switch (type) {
    case WeightType::kQ4_0:
      return LaunchType<WeightType::kQ4_0>(stream, part);
    case WeightType::kQ4_1:
      return LaunchType<WeightType::kQ4_1>(stream, part);
    case WeightType::kQ5_0:
      return LaunchType<WeightType::kQ5_0>(stream, part);
    case WeightType::kQ5_1:
      return LaunchType<WeightType::kQ5_1>(stream, part);
    case WeightType::kQ8_0:
      return LaunchType<WeightType::kQ8_0>(stream, part);
    case WeightType::kQ4_K:
      return LaunchType<WeightType::kQ4_K>(stream, part);
    case WeightType::kQ5_K:
      return LaunchType<WeightType::kQ5_K>(stream, part);
    case WeightType::kQ6_K:
      return LaunchType<WeightType::kQ6_K>(stream, part);
    default:
      NSA_CHECK(false && "not a quantised type");
  }
}

}  // namespace nsa::kernels::cuda
