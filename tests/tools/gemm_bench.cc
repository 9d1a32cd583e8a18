// The matrix-vector product alone: one row of x through matrices that together fill four times the
// last-level cache, so that each is read from memory. One JSON object.

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <iostream>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/strings/str_split.h"
#include "engine/memory.h"
#include "kernels/backend.h"
#include "kernels/quant.h"
#include "nlohmann/json.hpp"
#include "tests/tools/read_bandwidth.h"

ABSL_FLAG(std::string, types, "q4_1,q4_0,q8_0,q4_k,q6_k", "storage formats, as GGUF calls them");
ABSL_FLAG(int64_t, num_rows, 3072, "output features of a matrix");
ABSL_FLAG(int64_t, num_columns, 1536, "input features");
ABSL_FLAG(int32_t, num_threads, 0, "0: all usable cores");
ABSL_FLAG(int32_t, rounds, 9, "passes over all matrices; the median counts");

namespace nsa::tools {
namespace {

using kernels::WeightType;

constexpr std::pair<const char*, WeightType> kTypes[] = {
    {"q4_1", WeightType::kQ4_1}, {"q4_0", WeightType::kQ4_0}, {"q8_0", WeightType::kQ8_0},
    {"q4_k", WeightType::kQ4_K}, {"q6_k", WeightType::kQ6_K},
};

/// Seconds of a pass over all matrices, a median, and their bytes.
std::pair<double, int64_t> Measure(kernels::Backend& backend, WeightType type) {
  const int64_t rows = absl::GetFlag(FLAGS_num_rows);
  const int64_t columns = absl::GetFlag(FLAGS_num_columns);
  // One source for all: what the numbers are does not matter, as long as they are finite.
  std::vector<uint8_t> source(static_cast<size_t>(rows * kernels::RowBytes(type, columns)));
  std::mt19937 generator(1);
  for (uint8_t& byte : source) byte = static_cast<uint8_t>(generator() % 0x3c);
  const kernels::WeightMatrix matrix = {source.data(), type, rows, columns};
  std::vector<std::unique_ptr<kernels::PackedMatrix>> packed;
  int64_t num_bytes = 0;
  while (num_bytes < OutOfCacheBytes()) {
    packed.push_back(backend.Pack({&matrix, 1}));
    num_bytes += packed.back()->num_bytes();
  }
  const std::vector<float> x(static_cast<size_t>(columns), 0.5f);
  std::vector<float> y(static_cast<size_t>(rows));
  std::vector<double> seconds;
  for (int32_t i = 0; i < absl::GetFlag(FLAGS_rounds); ++i) {
    const auto began = std::chrono::steady_clock::now();
    for (const auto& w : packed) {
      backend.Gemm({.x = x.data(),
                    .x_stride = columns,
                    .y = y.data(),
                    .y_stride = rows,
                    .num_rows = 1,
                    .w = w.get()});
    }
    seconds.push_back(
        std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count());
  }
  std::sort(seconds.begin(), seconds.end());
  return {seconds[seconds.size() / 2], num_bytes};
}

int Run() {
  const int threads = absl::GetFlag(FLAGS_num_threads) > 0 ? absl::GetFlag(FLAGS_num_threads)
                                                           : engine::NumUsableCores();
  const double bandwidth = ReadBandwidthFromChild(threads);
  const auto backend = kernels::MakeCpuBackend(threads);
  nlohmann::ordered_json result = {{"num_threads", threads}, {"read_bandwidth_gb_s", bandwidth}};
  for (const auto& word : absl::StrSplit(absl::GetFlag(FLAGS_types), ',')) {
    const auto* type = std::find_if(std::begin(kTypes), std::end(kTypes),
                                    [&](const auto& entry) { return entry.first == word; });
    if (type == std::end(kTypes)) {
      std::cerr << "--types: no format is called " << word << "\n";
      return 2;
    }
    const auto [seconds, num_bytes] = Measure(*backend, type->second);
    const double gb_per_s = static_cast<double>(num_bytes) / seconds / 1e9;
    result[type->first] = {{"gb_per_s", gb_per_s}, {"of_bandwidth", gb_per_s / bandwidth}};
  }
  std::cout << result.dump() << std::endl;
  return 0;
}

}  // namespace
}  // namespace nsa::tools

int main(int argc, char** argv) {
  absl::ParseCommandLine(argc, argv);
  return nsa::tools::Run();
}
