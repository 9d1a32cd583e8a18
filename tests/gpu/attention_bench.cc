// NSA's decode step and prefill on a GPU beside our own full attention, operator by operator, and
// the share of the card's measured bandwidth that full attention's decode step reaches. One JSON
// object; --quick: shapes that take seconds.

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <iostream>
#include <nlohmann/json.hpp>
#include <vector>

#include "tests/gpu/bench_world.h"

namespace nsa::gpu {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kRounds = 21;
// What a step reads of all layers must not stand in L2 when the next step begins.
constexpr int64_t kL2Shares = 4;

/// Layers so that a sparse step reads several times L2, and the caches fit.
int NumLayers(const BenchShape& shape, int64_t context, int batch, const DeviceInfo& device) {
  const int64_t tokens = context / shape.stride +
                         int64_t{shape.num_selected_blocks} * shape.sel_block_size +
                         shape.window_size;
  const int64_t step_bytes = tokens * batch * shape.num_kv_heads * 2 * shape.head_dim * 2;
  const int64_t wanted = kL2Shares * device.l2_bytes / step_bytes + 1;
  const int64_t one = BenchWorld::NumBytes(shape, context, batch, 1, batch);
  const int64_t two = BenchWorld::NumBytes(shape, context, batch, 2, batch);
  const int64_t room = device.free_bytes / 10 * 8 - one;
  return static_cast<int>(std::clamp<int64_t>(wanted, 1, std::max<int64_t>(1, room / (two - one))));
}

/// Seconds a layer of what `call` enqueues for each.
template <typename Call>
double LayerSeconds(const BenchWorld& world, Call&& call) {
  const auto enqueue = [&](kernels::cuda::Stream& stream) {
    for (int layer = 0; layer < world.num_layers(); ++layer) call(stream, layer);
  };
  return MeasureGraph(enqueue, kRounds) / world.num_layers();
}

Json MeasureDecode(const BenchShape& shape, int64_t context, int batch, double bandwidth,
                   const DeviceInfo& device) {
  const int num_layers = NumLayers(shape, context, batch, device);
  const BenchWorld world(shape, context, batch, num_layers, batch);
  Json result = {{"context", context}, {"batch", batch}, {"num_layers", num_layers}};
  int64_t sparse_bytes = 0;
  for (const BenchWorld::Operator& op : world.Operators()) {
    const double seconds = LayerSeconds(
        world, [&](kernels::cuda::Stream& stream, int layer) { (world.*op.call)(stream, layer); });
    const double bytes_per_s = static_cast<double>(op.num_bytes) / seconds;
    result["operators"][op.name] = {{"us", seconds * 1e6},
                                    {"bytes", op.num_bytes},
                                    {"gb_per_s", bytes_per_s / 1e9},
                                    {"of_bandwidth", bytes_per_s / bandwidth}};
    if (op.name != "full_attn") sparse_bytes += op.num_bytes;
    if (op.name == "full_attn") result["full_us"] = seconds * 1e6;
  }
  const double seconds = LayerSeconds(
      world, [&](kernels::cuda::Stream& stream, int layer) { world.SparseLayer(stream, layer); });
  result["sparse_us"] = seconds * 1e6;
  result["sparse_bytes"] = sparse_bytes;
  result["sparse_floor_us"] = static_cast<double>(sparse_bytes) / bandwidth * 1e6;
  result["speedup_over_own_full"] = result["full_us"].get<double>() / (seconds * 1e6);
  result["finite"] = world.OutputIsFinite();
  return result;
}

/// A whole prompt in chunks; milliseconds so far at the ends of `contexts`, which rise.
Json MeasurePrefill(const BenchShape& shape, const std::vector<int64_t>& contexts, int64_t chunk) {
  BenchWorld world(shape, contexts.back(), 1, 1, chunk);
  double sparse = 0, full = 0;
  Json results = Json::array();
  const auto measure = [&](auto&& call) {
    return MeasureOnce([&](kernels::cuda::Stream& stream) { call(stream); });
  };
  const auto run_sparse = [&](kernels::cuda::Stream& stream) { world.SparseLayer(stream, 0); };
  const auto run_full = [&](kernels::cuda::Stream& stream) { world.FullAttn(stream, 0); };
  measure(run_sparse);
  measure(run_full);
  bool is_finite = true;
  for (int64_t position = 0; position < contexts.back(); position += chunk) {
    world.SetChunk(position);
    // First, as it stores the chunk's keys and values.
    sparse += measure(run_sparse);
    is_finite = is_finite && world.OutputIsFinite();
    full += measure(run_full);
    is_finite = is_finite && world.OutputIsFinite();
    if (!std::ranges::count(contexts, position + chunk)) continue;
    results.push_back({{"context", position + chunk},
                       {"chunk", chunk},
                       {"sparse_ms", sparse * 1e3},
                       {"full_ms", full * 1e3},
                       {"speedup_over_own_full", full / sparse},
                       {"finite", is_finite}});
  }
  return results;
}

int Run(bool is_quick) {
  DeviceInfo device;
  if (!FindDevice(device)) {
    std::fputs("no GPU: skipped\n", stderr);
    return 77;
  }
  const BenchShape shape;
  const double bandwidth = MeasureReadBandwidth();
  Json result = {{"device", device.name},
                 {"compute_capability", device.compute_capability},
                 {"num_multiprocessors", device.num_multiprocessors},
                 {"l2_bytes", device.l2_bytes},
                 {"read_bandwidth_gb_s", bandwidth / 1e9},
                 {"num_q_heads", shape.num_q_heads},
                 {"num_kv_heads", shape.num_kv_heads},
                 {"head_dim", shape.head_dim},
                 {"dtype", "bf16"},
                 {"precision", "16bit"}};
  std::vector<int64_t> decode = {8192}, contexts = {8192};
  if (!is_quick) {
    decode = {8192, 65536};
    contexts = {8192, 16384, 32768, 65536};
  }
  for (const int64_t context : decode) {
    for (const int batch : {1, 8, 32}) {
      result["decode"].push_back(MeasureDecode(shape, context, batch, bandwidth, device));
    }
  }
  result["prefill"] = MeasurePrefill(shape, contexts, 4096);
  std::cout << result.dump(1) << std::endl;
  return 0;
}

}  // namespace
}  // namespace nsa::gpu

int main(int argc, char** argv) {
  return nsa::gpu::Run(argc > 1 && std::strcmp(argv[1], "--quick") == 0);
}
