#ifndef NSA_CLIENT_LOAD_RANDOM_H_
#define NSA_CLIENT_LOAD_RANDOM_H_

#include <cstdint>
#include <random>

namespace nsa::client {

/// What is drawn for what: a stream of numbers each, so that one draw more or less of one kind
/// (a longer prompt, another rate) leaves all others as they were.
enum class RandomStream : uint32_t {
  kArrivals,
  kLengths,
  kLengthCheck,
  kPrefixGroups,
  kPriorities,
  kDeadlines,
  kCacheSalts,
  kPrompt,
  kWarmupPrompt,
  kPrefix,
};

/// Numbers that a seed determines, the same on every machine: the standard fixes the engine, but
/// not its distributions, so these are our own.
class Random {
 public:
  Random(uint64_t seed, RandomStream stream, uint64_t index = 0);

  /// In [0, 1), a multiple of 2^-53.
  double Uniform();
  /// In [0, bound); `bound` from 1 to 2^53.
  int64_t Below(int64_t bound);
  /// Mean 0, variance 1 (Box and Muller 1958).
  double Normal();
  /// Mean 1 (inverse of its distribution function).
  double Exponential();

 private:
  std::mt19937_64 engine_;
};

}  // namespace nsa::client

#endif  // NSA_CLIENT_LOAD_RANDOM_H_
