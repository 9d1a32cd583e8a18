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
/// OutOfCacheBytes; the best of five passes.
double MeasureReadBandwidth(int num_threads);

/// The same, measured by a child process, so that the array does not count in this one's peak
/// memory. To be called before this process has threads. 0 where it fails.
double ReadBandwidthFromChild(int num_threads);

}  // namespace nsa::tools

#endif  // NSA_TESTS_TOOLS_READ_BANDWIDTH_H_
