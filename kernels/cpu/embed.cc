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
      float* y = params.y + r * columns;
      const bool is_sampled = params.places != nullptr && params.places[r] >= 0;
      const int32_t id = is_sampled ? params.sampled[params.places[r]] : params.ids[r];
      if (is_sampled && id < 0) {
        std::fill_n(y, columns, 0.0f);
        continue;
      }
      NSA_CHECK(id >= 0 && id < params.table.num_rows);
      DequantizeRow(params.table.type, data + id * row_bytes, columns, y);
      if (params.scale == 1) continue;
      for (int64_t i = 0; i < columns; ++i) y[i] *= params.scale;
    }
  });
}

}  // namespace nsa::kernels::cpu
