#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

#include "kernels/activation.h"
#include "kernels/check.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/gemm_activations.h"
#include "kernels/cpu/packed_matrix.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/gemm.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "kernels/cpu/gemm_block-inl.h"

HWY_BEFORE_NAMESPACE();
namespace nsa::kernels::cpu {
namespace HWY_NAMESPACE {

/// Where one row's quantised form goes.
struct QuantisedRowView {
  int16_t* q;         // [num_columns]
  float* scale;       // [num_columns / 32]
  int32_t* sum;       // [num_columns / 32]
  float* scaled_sum;  // [num_columns / 32]
};

/// Bit for bit the same as kernels/activation.h.
void QuantiseGroup(const float* x, int64_t group, const QuantisedRowView& row) {
  const DF df;
  const DI di;
  const hn::Rebind<int16_t, DI> d16;
  const int lanes = static_cast<int>(hn::Lanes(df));
  // Magnitudes of floats order as integers, with infinity and NaN above the finite ones.
  VI max_bits = hn::Zero(di);
  for (int i = 0; i < kActivationGroup; i += lanes) {
    max_bits = hn::Max(max_bits, hn::BitCast(di, hn::Abs(hn::LoadU(df, x + i))));
  }
  const float amax = std::bit_cast<float>(hn::GetLane(hn::MaxOfLanes(di, max_bits)));
  const float inverse = kActivationMax / amax;
  const bool finite = std::isfinite(amax);
  row.scale[group] = finite ? amax / kActivationMax : std::numeric_limits<float>::quiet_NaN();
  int16_t* q = row.q + group * kActivationGroup;
  if (!finite || !std::isfinite(inverse)) {
    std::fill_n(q, kActivationGroup, int16_t{0});
    row.sum[group] = 0;
    row.scaled_sum[group] = row.scale[group] * 0.0f;
    return;
  }
  VI sum = hn::Zero(di);
  for (int i = 0; i < kActivationGroup; i += lanes) {
    const VI value = hn::NearestInt(hn::Mul(hn::LoadU(df, x + i), hn::Set(df, inverse)));
    sum = hn::Add(sum, value);
    hn::StoreU(hn::DemoteTo(d16, value), d16, q + i);
  }
  row.sum[group] = hn::GetLane(hn::SumOfLanes(di, sum));
  row.scaled_sum[group] = row.scale[group] * static_cast<float>(row.sum[group]);
}

/// Quantises all rows of x into the context's scratch memory.
Activations Quantise(Context& context, const GemmParams& params) {
  Activations a;
  a.num_columns = params.w->num_columns();
  a.num_groups = a.num_columns / kActivationGroup;
  const int64_t num_values = params.num_rows * a.num_columns;
  const int64_t num_scales = params.num_rows * a.num_groups;
  auto* bytes =
      context.shared[0].Get<std::byte>(static_cast<size_t>(num_values * 2 + num_scales * 12));
  auto* scale = reinterpret_cast<float*>(bytes);
  auto* scaled_sum = scale + num_scales;
  auto* sum = reinterpret_cast<int32_t*>(scaled_sum + num_scales);
  auto* q = reinterpret_cast<int16_t*>(sum + num_scales);
  const auto quantise_rows = [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const QuantisedRowView row{q + r * a.num_columns, scale + r * a.num_groups,
                                 sum + r * a.num_groups, scaled_sum + r * a.num_groups};
      const float* x = params.x + r * params.x_stride;
      for (int64_t g = 0; g < a.num_groups; ++g) QuantiseGroup(x + g * kActivationGroup, g, row);
    }
  };
  constexpr int64_t kRowsPerTask = 8;  // some microseconds, so that handing it out pays
  const int64_t num_tasks = (params.num_rows + kRowsPerTask - 1) / kRowsPerTask;
  context.pool.ParallelFor(num_tasks, [&](int64_t task, int) {
    quantise_rows(task * kRowsPerTask, std::min((task + 1) * kRowsPerTask, params.num_rows));
  });
  a.q = q;
  a.scale = scale;
  a.sum = sum;
  a.scaled_sum = scaled_sum;
  return a;
}

/// Brings a tile's sums to y: bias first, then the scale, then what y held.
void StoreTile(const GemmParams& params, int64_t row, int num_tile_rows, int64_t first_output,
               int num_outputs, const float* tile) {
  for (int r = 0; r < num_tile_rows; ++r) {
    float* y = params.y + (row + r) * params.y_stride + first_output;
    const float* sums = tile + r * kBlockRows;
    for (int i = 0; i < num_outputs; ++i) {
      float sum = sums[i];
      if (params.bias != nullptr) sum += params.bias[first_output + i];
      sum *= params.scale;
      y[i] = params.accumulate ? y[i] + sum : sum;
    }
  }
}

/// The largest tile that `num_rows` fill.
BlockKernel ChooseKernel(WeightType type, int64_t num_rows, int* num_tile_rows) {
  if constexpr (kTileRows == 6) {
    if (num_rows >= 6) return *num_tile_rows = 6, FindKernel<6>(type);
    if (num_rows >= 4) return *num_tile_rows = 4, FindKernel<4>(type);
  }
  if (num_rows >= 2) return *num_tile_rows = 2, FindKernel<2>(type);
  return *num_tile_rows = 1, FindKernel<1>(type);
}

void BlockTimesRows(const GemmParams& params, const PackedPart& part, int64_t block_in_part,
                    const Activations& a, int64_t row_begin, int64_t row_end) {
  HWY_ALIGN float tile[kTileRows * kBlockRows];
  const std::byte* block = part.data + block_in_part * part.block_bytes;
  const int64_t first_output = part.first_row + block_in_part * kBlockRows;
  const auto num_outputs =
      static_cast<int>(std::min<int64_t>(kBlockRows, part.num_rows - block_in_part * kBlockRows));
  int num_tile_rows = 0;
  for (int64_t row = row_begin; row < row_end; row += num_tile_rows) {
    const BlockKernel kernel = ChooseKernel(part.type, row_end - row, &num_tile_rows);
    kernel(block, a, row, tile);
    StoreTile(params, row, num_tile_rows, first_output, num_outputs, tile);
  }
}

void GemmForTarget(Context& context, const GemmParams& params) {
  const auto& w = static_cast<const CpuMatrix&>(*params.w);
  if (params.num_rows == 0 || w.num_blocks() == 0) return;
  Activations a;
  if (w.has_quantised_part()) a = Quantise(context, params);
  a.x = params.x;
  a.x_stride = params.x_stride;
  a.num_columns = w.num_columns();
  // A chunk of rows stays in the second-level cache while a run of blocks goes by, each of which
  // stays in the first-level cache while the chunk's tiles go by. The cut changes no bits.
  constexpr int64_t kRowsPerTask = 48;
  constexpr int64_t kMaxBlocksPerTask = 8;
  const int num_threads = context.pool.num_threads();
  const int64_t num_chunks = (params.num_rows + kRowsPerTask - 1) / kRowsPerTask;
  const int64_t num_splits = num_threads == 1 ? 1 : num_threads * 4;
  int64_t blocks_per_task = (w.num_blocks() + num_splits - 1) / num_splits;
  if (num_chunks > 1) blocks_per_task = std::min(blocks_per_task, kMaxBlocksPerTask);
  const int64_t num_runs = (w.num_blocks() + blocks_per_task - 1) / blocks_per_task;
  context.pool.ParallelFor(num_chunks * num_runs, [&](int64_t task, int) {
    const int64_t row_begin = task / num_runs * kRowsPerTask;
    const int64_t row_end = std::min(row_begin + kRowsPerTask, params.num_rows);
    const int64_t begin = task % num_runs * blocks_per_task;
    const int64_t end = std::min(begin + blocks_per_task, w.num_blocks());
    for (const PackedPart& part : w.parts()) {
      const int64_t part_begin = std::max<int64_t>(begin - part.first_block, 0);
      const int64_t part_end = std::min(end - part.first_block, part.num_blocks);
      for (int64_t block = part_begin; block < part_end; ++block) {
        BlockTimesRows(params, part, block, a, row_begin, row_end);
      }
    }
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace nsa::kernels::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace nsa::kernels::cpu {

HWY_EXPORT(GemmForTarget);

void Gemm(Context& context, const GemmParams& params) {
  HWY_DYNAMIC_DISPATCH(GemmForTarget)(context, params);
}

}  // namespace nsa::kernels::cpu
#endif
