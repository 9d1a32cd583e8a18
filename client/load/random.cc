#include "client/load/random.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace nsa::client {
namespace {

std::mt19937_64 Engine(uint64_t seed, RandomStream stream, uint64_t index) {
  std::seed_seq words{static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32),
                      static_cast<uint32_t>(stream), static_cast<uint32_t>(index),
                      static_cast<uint32_t>(index >> 32)};
  return std::mt19937_64(words);
}

}  // namespace

Random::Random(uint64_t seed, RandomStream stream, uint64_t index)
    : engine_(Engine(seed, stream, index)) {}

double Random::Uniform() { return static_cast<double>(engine_() >> 11) * 0x1p-53; }

int64_t Random::Below(int64_t bound) {
  // The product may round up to the bound.
  return std::min(static_cast<int64_t>(Uniform() * static_cast<double>(bound)), bound - 1);
}

double Random::Normal() {
  const double radius = std::sqrt(2 * Exponential());
  return radius * std::cos(2 * std::numbers::pi * Uniform());
}

double Random::Exponential() { return -std::log1p(-Uniform()); }

}  // namespace nsa::client
