#ifndef NSA_KERNELS_CUDA_GEMM_H_
#define NSA_KERNELS_CUDA_GEMM_H_

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/device.h"
#include "kernels/cuda/packed_matrix.h"
#include "kernels/ops/gemm.h"

/// What the kernels of Gemm share. Outputs (rows of W) are the M side of mma.sync, rows of x its N
/// side, 32 columns a step of K.
///
/// x is first laid out as B's lanes hold it (gemm_activations.cu), in blocks of 8 rows, each
/// [num_steps, kStepBytes]:
/// For quantised W the integers q = 256·high + low with signed bytes:
///   [32 lanes, {high, low}, 2 registers], then [{scale, scale·Σ q, Σ of columns 0…15 and of
///   16…31}, 8 rows] as float, float, int, int.
/// For dense W bfloat16 terms x ≈ first + second + third, without a rest where none underflows:
///   [3 terms, 32 lanes, 2 steps of 16 columns, 2 registers].
namespace nsa::kernels::cuda {

inline constexpr int kBlockXRows = 8;  // N of mma.sync
inline constexpr int kQuantisedStepBytes = 512 + 128;
inline constexpr int kDenseStepBytes = 3 * 512;

/// One launch: rows of x and one part of W.
struct GemmPart {
  const std::byte* blocks = nullptr;  // [num_blocks, block_bytes] of W, all of one type
  int64_t block_bytes = 0;
  int64_t num_blocks = 0;
  int num_units = 0;
  int64_t num_outputs = 0;
  const std::byte* x = nullptr;  // [num_x_blocks, x_block_bytes]
  int64_t x_block_bytes = 0;
  int64_t num_x_blocks = 0;
  int num_steps = 0;   // of 32 columns
  float* y = nullptr;  // [num_rows, num_outputs], rows y_stride floats apart
  int64_t y_stride = 0;
  int64_t num_rows = 0;
  const float* bias = nullptr;  // [num_outputs] or null
  bool accumulate = false;
  float scale = 1;
};

/// Bytes of a block of 8 rows of x. There is room for whole units, whose second step may be none.
constexpr int64_t XBlockBytes(bool is_quantised, int64_t num_columns) {
  const int64_t steps = CeilDiv(num_columns, kStepColumns);
  return is_quantised ? CeilDiv(steps, 2) * 2 * kQuantisedStepBytes : steps * kDenseStepBytes;
}

/// What layout kernels take.
struct LayOutXArgs {
  const float* x = nullptr;  // [num_rows, num_columns], rows x_stride floats apart
  int64_t x_stride = 0;
  int64_t num_rows = 0;
  int64_t num_columns = 0;
  std::byte* target = nullptr;  // [⌈num_rows / 8⌉, block_bytes]
  int64_t block_bytes = 0;
};
/// Rows up to a multiple of 8 become zeros.
void LayOutX(Stream& stream, bool is_quantised, const LayOutXArgs& args);

/// `part` for one type.
void LaunchQuantisedGemm(Stream& stream, WeightType type, const GemmPart& part);
void LaunchDenseGemm(Stream& stream, WeightType type, const GemmPart& part);

/// Up to so many rows, the kernels for few rows: eight warps share the columns of 16 outputs.
/// Above, those for many: a warp has 32 outputs and 32 rows. The bits are the same.
inline constexpr int64_t kFewRows = 32;

/// Two neighbours, moved at once.
struct alignas(8) FloatPair {
  float x[2];
};
struct alignas(8) IntPair {
  int32_t x[2];
};

/// Takes the nearest bfloat16 out of x, which keeps the rest: nothing where x is not finite.
NSA_DEVICE uint32_t TakeTerm(float& x) {
  const Bf16 term = ToBf16(x);
  const float value = ToFloat(term);
  x = Abs(value) < Infinity() ? x - value : 0;
  return term.bits;
}

/// y of one row and output, from Σ w·x.
NSA_DEVICE void StoreOutput(const GemmPart& p, int64_t row, int64_t output, float sum) {
  if (p.bias != nullptr) sum += p.bias[output];
  sum *= p.scale;
  float& y = p.y[row * p.y_stride + output];
  y = p.accumulate ? y + sum : sum;
}

}  // namespace nsa::kernels::cuda

#endif  // NSA_KERNELS_CUDA_GEMM_H_
