#include "engine/attention/rope_table.h"

#include <cmath>
#include <cstddef>

#include "kernels/tensor.h"

namespace nsa::engine {
namespace {

/// Cosines, or sines, of the rotations by 0, 1, … num_rows − 1 times `tokens_per_row` tokens.
kernels::Array<float> Table(kernels::Backend& backend,
                            const std::vector<double>& inverse_frequencies, int64_t num_rows,
                            int64_t tokens_per_row, double (*function)(double)) {
  std::vector<float> table;
  table.reserve(static_cast<size_t>(num_rows) * inverse_frequencies.size());
  for (int64_t row = 0; row < num_rows; ++row) {
    for (const double frequency : inverse_frequencies) {
      table.push_back(
          static_cast<float>(function(static_cast<double>(row * tokens_per_row) * frequency)));
    }
  }
  return {backend, table};
}

}  // namespace

RopeTable::RopeTable(kernels::Backend& backend, const std::vector<double>& inverse_frequencies,
                     int64_t max_distance)
    : rotary_dim_(static_cast<int>(inverse_frequencies.size()) * 2),
      num_coarse_(max_distance / kernels::kPageSize + 2),
      fine_cos_(Table(backend, inverse_frequencies, kernels::kPageSize, 1, std::cos)),
      fine_sin_(Table(backend, inverse_frequencies, kernels::kPageSize, 1, std::sin)),
      coarse_cos_(Table(backend, inverse_frequencies, num_coarse_, kernels::kPageSize, std::cos)),
      coarse_sin_(Table(backend, inverse_frequencies, num_coarse_, kernels::kPageSize, std::sin)) {}

kernels::RopeView RopeTable::view() const {
  return {.fine_cos = fine_cos_.data(),
          .fine_sin = fine_sin_.data(),
          .coarse_cos = coarse_cos_.data(),
          .coarse_sin = coarse_sin_.data(),
          .num_coarse = num_coarse_,
          .rotary_dim = rotary_dim_};
}

std::vector<double> InverseFrequencies(double theta, int rotary_dim) {
  std::vector<double> frequencies(static_cast<size_t>(rotary_dim / 2));
  for (size_t i = 0; i < frequencies.size(); ++i) {
    frequencies[i] = std::pow(theta, -2.0 * static_cast<double>(i) / rotary_dim);
  }
  return frequencies;
}

}  // namespace nsa::engine
