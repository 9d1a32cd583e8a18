#include "tests/tools/read_bandwidth.h"

#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <numeric>
#include <random>
#include <vector>

#include "kernels/cpu/weight_arena.h"
#include "kernels/thread_pool.h"

namespace nsa::tools {
namespace {

std::atomic<uint64_t> g_sink;  // so that the sums are not optimised away

/// Words between what is read of a stream and what is fetched: 4 KiB. The hardware alone does not
/// ask far enough ahead for all of the bandwidth.
constexpr int64_t kAheadOfStream = 512;

/// Sums `count` words, and fetches as many at `ahead`.
uint64_t Sum(const uint64_t* data, const uint64_t* ahead, size_t count) {
  // Eight independent sums, which the compiler turns into vectors: the loop is bound by loads.
  uint64_t sums[8] = {};
  for (size_t i = 0; i + 8 <= count; i += 8) {
    __builtin_prefetch(ahead + i, 0, 2);
    for (size_t j = 0; j < 8; ++j) sums[j] += data[i + j];
  }
  uint64_t total = 0;
  for (const uint64_t sum : sums) total += sum;
  return total;
}

double Measure(int num_threads, int64_t run_bytes) {
  // In large pages, as weights and the KV cache are: with small ones look-ups of addresses take up
  // to a third of the bandwidth.
  constexpr int64_t kTasks = 256;
  const int64_t run = run_bytes > 0 ? run_bytes / 8 : OutOfCacheBytes() / 8 / kTasks;  // words
  const int64_t runs_per_task = OutOfCacheBytes() / 8 / kTasks / run;
  const int64_t num_runs = kTasks * runs_per_task;
  const auto memory = kernels::cpu::WeightArena().Allocate(static_cast<size_t>(num_runs * run * 8));
  const auto* data = reinterpret_cast<const uint64_t*>(memory.get());
  std::vector<int64_t> order(static_cast<size_t>(num_runs) + 1, 0);
  std::iota(order.begin(), order.end() - 1, 0);
  if (run_bytes > 0) std::shuffle(order.begin(), order.end() - 1, std::mt19937(1));
  kernels::ThreadPool pool(num_threads);
  double best = 0;
  for (int pass = 0; pass < 5; ++pass) {
    const auto began = std::chrono::steady_clock::now();
    pool.ParallelFor(kTasks, [&](int64_t task, int) {
      for (int64_t i = task * runs_per_task; i < (task + 1) * runs_per_task; ++i) {
        const uint64_t* first = data + order[static_cast<size_t>(i)] * run;
        // Runs that are long are streams: a distance inside of them does. Short ones need the next.
        const uint64_t* ahead =
            run_bytes > 0 ? data + order[static_cast<size_t>(i) + 1] * run : first + kAheadOfStream;
        g_sink += Sum(first, ahead, static_cast<size_t>(run));
      }
    });
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - began;
    best = std::max(best, static_cast<double>(num_runs * run * 8) / seconds.count() / 1e9);
  }
  return best;
}

}  // namespace

int64_t OutOfCacheBytes() {
  const int64_t last_level = sysconf(_SC_LEVEL3_CACHE_SIZE);  // 0 or −1 where it is not known
  return std::max(int64_t{512} << 20, 4 * last_level);
}

CacheEvictor::CacheEvictor() : data_(static_cast<size_t>(OutOfCacheBytes()) / 8, 1) {}

void CacheEvictor::Evict() const {
  g_sink += Sum(data_.data(), data_.data() + kAheadOfStream, data_.size());
}

double ReadBandwidthFromChild(int num_threads, int64_t run_bytes) {
  int ends[2];
  if (pipe(ends) != 0) return 0;
  const pid_t child = fork();
  if (child == 0) {
    const double measured = Measure(num_threads, run_bytes);
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
