#include "tests/tools/read_bandwidth.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <vector>

#include "kernels/thread_pool.h"

namespace nsa::tools {
namespace {

std::atomic<uint64_t> g_sink;  // so that the sums are not optimised away

uint64_t Sum(const uint64_t* data, size_t count) {
  // Eight independent sums, which the compiler turns into vectors: the loop is bound by loads.
  uint64_t sums[8] = {};
  for (size_t i = 0; i + 8 <= count; i += 8) {
    for (size_t j = 0; j < 8; ++j) sums[j] += data[i + j];
  }
  uint64_t total = 0;
  for (const uint64_t sum : sums) total += sum;
  return total;
}

}  // namespace

double MeasureReadBandwidth(int num_threads) {
  constexpr size_t kCount = (size_t{512} << 20) / sizeof(uint64_t);
  constexpr int64_t kTasks = 256;
  std::vector<uint64_t> data(kCount, 1);
  kernels::ThreadPool pool(num_threads);
  double best = 0;
  for (int pass = 0; pass < 5; ++pass) {
    const auto began = std::chrono::steady_clock::now();
    pool.ParallelFor(kTasks, [&](int64_t task, int) {
      g_sink += Sum(data.data() + static_cast<size_t>(task) * (kCount / kTasks), kCount / kTasks);
    });
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - began;
    best = std::max(best, static_cast<double>(kCount * sizeof(uint64_t)) / seconds.count() / 1e9);
  }
  return best;
}

}  // namespace nsa::tools
