#include "engine/attention/rope_table.h"

#include <cmath>
#include <cstddef>

#include "kernels/tensor.h"

namespace nsa::engine {
namespace {

void FillTable(const std::vector<double>& inverse_frequencies, int64_t num_rows,
               int64_t tokens_per_row, std::vector<float>& cosines, std::vector<float>& sines) {
  const size_t half = inverse_frequencies.size();
  cosines.resize(static_cast<size_t>(num_rows) * half);
  sines.resize(cosines.size());
  for (int64_t row = 0; row < num_rows; ++row) {
    for (size_t i = 0; i < half; ++i) {
      const double angle = static_cast<double>(row * tokens_per_row) * inverse_frequencies[i];
      cosines[static_cast<size_t>(row) * half + i] = static_cast<float>(std::cos(angle));
      sines[static_cast<size_t>(row) * half + i] = static_cast<float>(std::sin(angle));
    }
  }
}

}  // namespace

RopeTable::RopeTable(const std::vector<double>& inverse_frequencies, int64_t max_distance)
    : rotary_dim_(static_cast<int>(inverse_frequencies.size()) * 2),
      num_coarse_(max_distance / kernels::kPageSize + 2) {
  FillTable(inverse_frequencies, kernels::kPageSize, 1, fine_cos_, fine_sin_);
  FillTable(inverse_frequencies, num_coarse_, kernels::kPageSize, coarse_cos_, coarse_sin_);
}

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
