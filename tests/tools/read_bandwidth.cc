#include "tests/tools/read_bandwidth.h"

#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <vector>

#include "kernels/cpu/weight_arena.h"
#include "kernels/thread_pool.h"

namespace nsa::tools {
namespace {

std::atomic<uint64_t> g_sink;  // so that the sums are not optimised away

uint64_t Sum(const uint64_t* data, size_t count) {
  // Eight independent sums, which the compiler turns into vectors: the loop is bound by loads. The
  // hardware alone does not ask far enough ahead for all of the bandwidth.
  constexpr size_t kAhead = 512;  // 4 KiB
  uint64_t sums[8] = {};
  for (size_t i = 0; i + 8 <= count; i += 8) {
    __builtin_prefetch(data + i + kAhead, 0, 2);
    for (size_t j = 0; j < 8; ++j) sums[j] += data[i + j];
  }
  uint64_t total = 0;
  for (const uint64_t sum : sums) total += sum;
  return total;
}

}  // namespace

int64_t OutOfCacheBytes() {
  const int64_t last_level = sysconf(_SC_LEVEL3_CACHE_SIZE);  // 0 or −1 where it is not known
  return std::max(int64_t{512} << 20, 4 * last_level);
}

CacheEvictor::CacheEvictor() : data_(static_cast<size_t>(OutOfCacheBytes()) / 8, 1) {}

void CacheEvictor::Evict() const { g_sink += Sum(data_.data(), data_.size()); }

double MeasureReadBandwidth(int num_threads) {
  constexpr int64_t kTasks = 256;
  const size_t per_task = static_cast<size_t>(OutOfCacheBytes()) / sizeof(uint64_t) / kTasks;
  // In large pages, as weights and the KV cache are: with small ones look-ups of addresses take up
  // to a third of the bandwidth.
  const size_t num_bytes = per_task * kTasks * sizeof(uint64_t);
  const auto memory = kernels::cpu::WeightArena().Allocate(num_bytes);
  const auto* data = reinterpret_cast<const uint64_t*>(memory.get());
  kernels::ThreadPool pool(num_threads);
  double best = 0;
  for (int pass = 0; pass < 5; ++pass) {
    const auto began = std::chrono::steady_clock::now();
    pool.ParallelFor(kTasks, [&](int64_t task, int) {
      g_sink += Sum(data + static_cast<size_t>(task) * per_task, per_task);
    });
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - began;
    best = std::max(best, static_cast<double>(num_bytes) / seconds.count() / 1e9);
  }
  return best;
}

double ReadBandwidthFromChild(int num_threads) {
  int ends[2];
  if (pipe(ends) != 0) return 0;
  const pid_t child = fork();
  if (child == 0) {
    const double measured = MeasureReadBandwidth(num_threads);
    const bool sent = write(ends[1], &measured, sizeof(measured)) == sizeof(measured);
    _exit(sent ? 0 : 1);
  }
  close(ends[1]);
  double measured = 0;
  if (child < 0 || read(ends[0], &measured, sizeof(measured)) != sizeof(measured)) measured = 0;
  close(ends[0]);
  if (child > 0) waitpid(child, nullptr, 0);
  return measured;
}

}  // namespace nsa::tools
