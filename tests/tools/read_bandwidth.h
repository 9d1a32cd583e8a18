#ifndef NSA_TESTS_TOOLS_READ_BANDWIDTH_H_
#define NSA_TESTS_TOOLS_READ_BANDWIDTH_H_

namespace nsa::tools {

/// The machine's read bandwidth in GB/s (10⁹ bytes): `num_threads` threads sum an array of 512 MiB
/// that lies outside every cache; the best of five passes.
double MeasureReadBandwidth(int num_threads);

}  // namespace nsa::tools

#endif  // NSA_TESTS_TOOLS_READ_BANDWIDTH_H_
