#include <algorithm>
#include <cstdint>

#include "kernels/check.h"
#include "kernels/cpu/cpu.h"

namespace nsa::kernels::cpu {

void Embed(Context& context, const EmbedParams& params) {
  const int64_t columns = params.table.num_columns;
  const int64_t row_bytes = RowBytes(params.table.type, columns);
  const auto* data = static_cast<const uint8_t*>(params.table.data);
  constexpr int64_t kRowsPerTask = 16;  // some microseconds, so that handing it out pays
  const int64_t num_tasks = (params.num_rows + kRowsPerTask - 1) / kRowsPerTask;
  context.pool.ParallelFor(num_tasks, [&](int64_t task, int) {
    const int64_t end = std::min((task + 1) * kRowsPerTask, params.num_rows);
    for (int64_t r = task * kRowsPerTask; r < end; ++r) {
      NSA_CHECK(params.ids[r] >= 0 && params.ids[r] < params.table.num_rows);
      float* y = params.y + r * columns;
      DequantizeRow(params.table.type, data + params.ids[r] * row_bytes, columns, y);
      if (params.scale == 1) continue;
      for (int64_t i = 0; i < columns; ++i) y[i] *= params.scale;
    }
  });
}

}  // namespace nsa::kernels::cpu
