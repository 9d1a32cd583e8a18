#ifndef NSA_TESTS_TOOLS_READ_BANDWIDTH_H_
#define NSA_TESTS_TOOLS_READ_BANDWIDTH_H_

#include <cstdint>
#include <vector>

namespace nsa::tools {

/// Bytes that lie outside every cache: four times the last level, 512 MiB at least.
int64_t OutOfCacheBytes();

/// Reads an array of OutOfCacheBytes, so that what stood in the caches before does no longer.
class CacheEvictor {
 public:
  CacheEvictor();
  void Evict() const;

 private:
  std::vector<uint64_t> data_;
};

/// The machine's read bandwidth in GB/s (10⁹ bytes): `num_threads` threads sum an array of
/// OutOfCacheBytes; the best of five passes. `run_bytes` (a multiple of 64): in runs of so many at
/// random places, as attention reads pages, where a run's lines are fetched while its predecessor
/// is read; 0: from its beginning to its end. Measured by a child process, so that the array does
/// not count in this one's peak memory. To be called before this process has threads. 0 where it
/// fails.
double ReadBandwidthFromChild(int num_threads, int64_t run_bytes = 0);

}  // namespace nsa::tools

#endif  // NSA_TESTS_TOOLS_READ_BANDWIDTH_H_
