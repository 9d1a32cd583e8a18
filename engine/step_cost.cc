#include "engine/step_cost.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace nsa::engine {
namespace {

// Before the first step: seconds that a step, a decode row and a prompt token may well take. Wide,
// so that some steps of any machine settle it.
constexpr double kPrior[] = {0.3, 0.1, 0.03};
// How far the time of a step is off, and how far a part moves from one step to the next, as shares
// of them. Together they make some ten steps' average.
constexpr double kNoise = 0.2;
constexpr double kDrift = 0.02;
// As much of a part as is not known does not become more: steps that are all alike tell the sum
// alone, for hours perhaps.
constexpr double kMostUnknown = 0.3;
// A part that is nothing so far may come to be so much of a step.
constexpr double kLeastShare = 0.1;
// A step that takes many times what was expected was held up, more likely than not.
constexpr double kMostSurprise = 3;
constexpr double kLeastSeconds = 1e-7;

}  // namespace

StepCost::StepCost() : covariance_() {
  for (size_t i = 0; i < kParts; ++i) covariance_[i][i] = kPrior[i] * kPrior[i];
}

double StepCost::SecondsAlone(int64_t num_tokens, int64_t chunk) const {
  const int64_t num_steps = (num_tokens + chunk - 1) / chunk;
  return parts_[0] * static_cast<double>(num_steps) + parts_[2] * static_cast<double>(num_tokens);
}

bool StepCost::knows_rows() const { return covariance_[1][1] < std::pow(0.5 * parts_[1], 2); }

StepCost::Vector StepCost::CovarianceTimes(const Vector& x) const {
  Vector product = {};
  for (size_t i = 0; i < kParts; ++i) {
    for (size_t j = 0; j < kParts; ++j) product[i] += covariance_[i][j] * x[j];
  }
  return product;
}

void StepCost::Observe(int64_t num_decode_rows, int64_t num_prompt_tokens,
                       absl::Duration duration) {
  if (num_decode_rows + num_prompt_tokens == 0) return;
  const Vector x = {1, static_cast<double>(num_decode_rows),
                    static_cast<double>(num_prompt_tokens)};
  const auto along_x = [&x](const Vector& y) {
    return std::inner_product(x.begin(), x.end(), y.begin(), 0.0);
  };
  const double expected = Seconds(x[1], x[2]);
  const double most = std::max(expected, std::sqrt(along_x(CovarianceTimes(x))));
  const double seconds = std::clamp(absl::ToDoubleSeconds(duration), kLeastSeconds,
                                    std::max(kLeastSeconds, kMostSurprise * most));
  for (size_t i = 0; i < kParts; ++i) {
    if (x[i] == 0) continue;
    const double size = std::max(parts_[i], kLeastShare * seconds / x[i]);
    const bool is_vague = covariance_[i][i] > std::pow(kMostUnknown * size, 2);
    if (!is_vague) covariance_[i][i] += std::pow(kDrift * size, 2);
  }
  const Vector gain = CovarianceTimes(x);
  // Noise of the measured time alone would trust short ones more, and all would seem short.
  const double variance =
      along_x(gain) + kNoise * kNoise * std::max(expected, kLeastSeconds) * seconds;
  for (size_t i = 0; i < kParts; ++i) {
    parts_[i] += gain[i] * (seconds - expected) / variance;
    for (size_t j = 0; j < kParts; ++j) covariance_[i][j] -= gain[i] * gain[j] / variance;
  }
  KeepPositive();
}

void StepCost::KeepPositive() {
  // What a part has too little others have too much: cut off alone it would leave the sum wrong,
  // and each step would make that worse.
  for (size_t round = 0; round < kParts; ++round) {
    for (size_t i = 0; i < kParts; ++i) {
      if (parts_[i] >= 0 || covariance_[i][i] <= 0) continue;
      const double factor = parts_[i] / covariance_[i][i];
      for (size_t j = 0; j < kParts; ++j) parts_[j] -= covariance_[j][i] * factor;
    }
  }
  for (double& part : parts_) part = std::max(0.0, part);
}

}  // namespace nsa::engine
