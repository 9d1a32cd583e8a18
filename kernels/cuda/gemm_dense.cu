#include <cstddef>
#include <cstdint>

#include "kernels/check.h"
#include "kernels/cuda/elements.h"
#include "kernels/cuda/gemm.h"
#include "kernels/cuda/gemm_tile.h"
#include "kernels/cuda/launch.h"

namespace nsa::kernels::cuda {
namespace {

/// A weight is one, two or three bfloat16 terms, x three, all exact (of float32, where none
/// underflows); a tensor core multiplies and adds them in float32. Of products of two terms those
/// are left out that are below 2⁻²⁴ of the whole. Sums go over 512 columns from zero and are added
/// in order: so warps may share the columns of a row, and the cut depends on nothing else.
template <WeightType kType>
inline constexpr int kTerms = kType == WeightType::kBF16  ? 1
                              : kType == WeightType::kF16 ? 2
                                                          : 3;
constexpr int kXTerms = 3;
constexpr int kChunkSteps = 512 / kStepColumns;

/// A lane's share of W in a step.
template <WeightType kType>
struct StepShare {
  static constexpr int kUnitBytes = UnitLayoutOf(kType).end;
  static constexpr int kLoads = kUnitBytes / 512;  // of 16 bytes, for two steps of a tensor core

  /// By load(const U32x4*).
  template <typename Load>
  NSA_DEVICE void Read(const std::byte* unit, Load&& load) {
    NSA_UNROLL
    for (int i = 0; i < kLoads; ++i) {
      raw[i] = load(reinterpret_cast<const U32x4*>(unit) + i * kWarpSize + LaneIndex());
    }
  }

  /// Registers of A of 16 columns, for each term.
  NSA_DEVICE void Split(int half, uint32_t (&a)[kTerms<kType>][4]) const {
    NSA_UNROLL
    for (int i = 0; i < 4; ++i) {
      if constexpr (kType == WeightType::kBF16) {
        a[0][i] = raw[half].x[i];
      } else {
        float low, high;
        if constexpr (kType == WeightType::kF16) {
          low = ToFloat(F16{static_cast<uint16_t>(raw[half].x[i])});
          high = ToFloat(F16{static_cast<uint16_t>(raw[half].x[i] >> 16)});
        } else {
          low = FloatOfBits(raw[2 * half + i / 2].x[i % 2 * 2]);
          high = FloatOfBits(raw[2 * half + i / 2].x[i % 2 * 2 + 1]);
        }
        NSA_UNROLL
        for (int term = 0; term < kTerms<kType>; ++term) {
          const uint32_t bits = TakeTerm(low);
          a[term][i] = bits | TakeTerm(high) << 16;
        }
      }
    }
  }

  U32x4 raw[kLoads];
};

/// A lane's share of eight rows of x in a step.
struct XShare {
  U32x4 term[kXTerms];
};
NSA_DEVICE XShare ReadX(const std::byte* step) {
  XShare x;
  NSA_UNROLL
  for (int i = 0; i < kXTerms; ++i) {
    x.term[i] = LoadVector(reinterpret_cast<const U32x4*>(step) + i * kWarpSize + LaneIndex());
  }
  return x;
}

/// Adds 16 columns, the smallest products first.
template <int kWTerms>
NSA_DEVICE void AddProducts(const uint32_t (&a)[kWTerms][4], const XShare& x, int half,
                            float (&sums)[4]) {
  NSA_UNROLL
  for (int order = kXTerms - 1; order >= 0; --order) {
    NSA_UNROLL
    for (int w = 0; w < kWTerms; ++w) {
      if (w > order) continue;
      const U32x4& b = x.term[order - w];
      const uint32_t of_half[2] = {b.x[2 * half], b.x[2 * half + 1]};
      Mma(sums, a[w], of_half, Bf16{});
    }
  }
}

/// Many rows (gemm_tile.h).
template <WeightType kType>
class DenseCore {
 public:
  static constexpr int kUnitColumns = kStepColumns;
  static constexpr int kUnitBytes = StepShare<kType>::kUnitBytes;
  static constexpr int kSuperBytes = 0;
  static constexpr int kXUnitBytes = kDenseStepBytes;
  static constexpr int kStages = 2;
  static constexpr int kCtas = kTerms<kType> == 3 ? 1 : 2;
  static constexpr int kLaneSums = kWarpBlocks * kWarpXBlocks * 4;
  static constexpr int kOwnBytes = kTileThreads * kLaneSums * static_cast<int>(sizeof(float));

  NSA_DEVICE explicit DenseCore(SharedArena& arena)
      : sums_(arena.Take<float>(kTileThreads * kLaneSums) + ThreadIndex()) {
    NSA_UNROLL
    for (int i = 0; i < kLaneSums; ++i) sums_[i * kTileThreads] = 0;
  }

  NSA_DEVICE void Add(const std::byte* w, const std::byte*, const std::byte* x, int) {
    uint32_t a[kWarpBlocks][2][kTerms<kType>][4];
    NSA_UNROLL
    for (int m = 0; m < kWarpBlocks; ++m) {
      StepShare<kType> share;
      share.Read(w + m * kUnitBytes, [](const U32x4* from) { return LoadVector(from); });
      NSA_UNROLL
      for (int half = 0; half < 2; ++half) share.Split(half, a[m][half]);
    }
    NSA_UNROLL
    for (int n = 0; n < kWarpXBlocks; ++n) {
      const XShare x_share = ReadX(x + n * kXUnitBytes);
      NSA_UNROLL
      for (int half = 0; half < 2; ++half) {
        NSA_UNROLL
        for (int m = 0; m < kWarpBlocks; ++m) {
          AddProducts(a[m][half], x_share, half, chunk_[m][n]);
        }
      }
    }
    if (++num_steps_ == kChunkSteps) CloseChunk();
  }

  NSA_DEVICE float Sum(int m, int n, int i) const {
    const float sum = sums_[At(m, n, i)];
    return num_steps_ == 0 ? sum : sum + chunk_[m][n][i];
  }

 private:
  NSA_DEVICE static int At(int m, int n, int i) {
    return ((m * kWarpXBlocks + n) * 4 + i) * kTileThreads;
  }

  NSA_DEVICE void CloseChunk() {
    NSA_UNROLL
    for (int m = 0; m < kWarpBlocks; ++m) {
      NSA_UNROLL
      for (int n = 0; n < kWarpXBlocks; ++n) {
        NSA_UNROLL
        for (int i = 0; i < 4; ++i) {
          sums_[At(m, n, i)] += chunk_[m][n][i];
          chunk_[m][n][i] = 0;
        }
      }
    }
    num_steps_ = 0;
  }

  // Of closed chunks. In shared memory, of which this thread alone uses its column: they are
  // touched once in 16 steps, and registers are what there is least of.
  float* sums_;
  float chunk_[kWarpBlocks][kWarpXBlocks][4] = {};
  int num_steps_ = 0;  // of the chunk
};

constexpr int kFewThreads = 256;
constexpr int kFewWarps = kFewThreads / kWarpSize;
constexpr int kTile = kBlockRows * kBlockXRows;

/// The sums of one chunk of columns, by a warp. W passes once; of x, rows that are there.
template <WeightType kType>
NSA_DEVICE void SumChunk(const std::byte* w, const std::byte* x, int num_x_rows, int num_steps,
                         float (&sums)[4]) {
  NSA_UNROLL_BY(4)
  for (int step = 0; step < num_steps; ++step) {
    StepShare<kType> share;
    share.Read(w + step * StepShare<kType>::kUnitBytes,
               [](const U32x4* from) { return LoadOnce(from); });
    XShare x_share = {};
    if (LaneIndex() / 4 < num_x_rows) x_share = ReadX(x + step * kDenseStepBytes);
    NSA_UNROLL
    for (int half = 0; half < 2; ++half) {
      uint32_t a[kTerms<kType>][4];
      share.Split(half, a);
      AddProducts(a, x_share, half, sums);
    }
  }
}

/// Few rows: a CTA has 16 outputs and up to 8 rows; each warp sums chunks, and one thread for each
/// output and row adds them in order. CTA i: block i / num_x_blocks of W, and of x the block of the
/// remainder: those that read the same W run at the same time.
template <WeightType kType>
NSA_KERNEL(kFewThreads)
DenseFewRowsKernel(NSA_ARGS GemmPart p) {
  NSA_SHARED(FloatPair, chunks, kFewWarps * kTile / 2);  // [kFewWarps, 16 outputs, 8 rows]
  const Split at = SplitIndex(CtaX(), p.num_x_blocks);
  const int64_t first_row = at.remainder * kBlockXRows, rows_left = p.num_rows - first_row;
  const int num_rows = rows_left < kBlockXRows ? static_cast<int>(rows_left) : kBlockXRows;
  const std::byte* w = p.blocks + at.quotient * p.block_bytes;
  const std::byte* x = p.x + at.remainder * p.x_block_bytes;
  const int output = ThreadIndex() / num_rows, row = ThreadIndex() % num_rows;
  float sum = 0;
  for (int begin = 0; begin < p.num_steps; begin += kFewWarps * kChunkSteps) {
    const int first = begin + WarpIndex() * kChunkSteps, left = p.num_steps - first;
    if (left > 0) {
      float sums[4] = {};
      SumChunk<kType>(w + int64_t{first} * StepShare<kType>::kUnitBytes,
                      x + int64_t{first} * kDenseStepBytes, num_rows,
                      left < kChunkSteps ? left : kChunkSteps, sums);
      const int pair = WarpIndex() * (kTile / 2) + LaneIndex();
      chunks[pair] = {sums[0], sums[1]};
      chunks[pair + kWarpSize] = {sums[2], sums[3]};
    }
    SyncThreads();
    if (output < kBlockRows) {
      for (int i = 0; i < kFewWarps && begin + i * kChunkSteps < p.num_steps; ++i) {
        sum += chunks[(i * kTile + output * kBlockXRows + row) / 2].x[row % 2];
      }
    }
    SyncThreads();
  }
  const int64_t index = at.quotient * kBlockRows + output;
  if (output < kBlockRows && index < p.num_outputs) StoreOutput(p, first_row + row, index, sum);
}

template <WeightType kType>
void LaunchType(Stream& stream, const GemmPart& part) {
  if (part.num_rows > kFewRows) {
    return LaunchTiles<DenseCore<kType>>(stream, "gemm_dense", part);
  }
  Launch(stream,
         {.name = "gemm_dense_few_rows",
          .grid_x = part.num_blocks * part.num_x_blocks,
          .num_threads = kFewThreads},
         DenseFewRowsKernel<kType>, part);
}

}  // namespace

void LaunchDenseGemm(Stream& stream, WeightType type, const GemmPart& part) {
  switch (type) {
    case WeightType::kF32:
      return LaunchType<WeightType::kF32>(stream, part);
    case WeightType::kF16:
      return LaunchType<WeightType::kF16>(stream, part);
    case WeightType::kBF16:
      return LaunchType<WeightType::kBF16>(stream, part);
    default:
      NSA_CHECK(false && "not a dense type");
  }
}

}  // namespace nsa::kernels::cuda
