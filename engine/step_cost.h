#ifndef NSA_ENGINE_STEP_COST_H_
#define NSA_ENGINE_STEP_COST_H_

#include <array>
#include <cstdint>

#include "absl/time/time.h"

namespace nsa::engine {

/// What a step takes, learned from those that were: a part for the step itself, one for each decode
/// row and one for each prompt token. A Kalman filter over the three, whose parts drift where a
/// step has them and stay where it has not: hours of decoding do not make it forget what a prompt
/// token costs. A value, without locks.
class StepCost {
 public:
  StepCost();

  /// Tells of a step that has ended.
  void Observe(int64_t num_decode_rows, int64_t num_prompt_tokens, absl::Duration duration);

  /// Of a step with so many, in seconds; zero as long as none was seen.
  double Seconds(double num_decode_rows, double num_prompt_tokens) const {
    return parts_[0] + parts_[1] * num_decode_rows + parts_[2] * num_prompt_tokens;
  }
  double prompt_token_seconds() const { return parts_[2]; }
  /// Whether steps have told what a decode row costs, give or take a half.
  bool knows_rows() const;

  /// Of reading a prompt while nothing else runs, in chunks of at most so many tokens.
  double SecondsAlone(int64_t num_tokens, int64_t chunk) const;

 private:
  static constexpr size_t kParts = 3;
  using Vector = std::array<double, kParts>;

  Vector CovarianceTimes(const Vector& x) const;
  void KeepPositive();

  Vector parts_ = {};                      // seconds of a step, a decode row, a prompt token
  std::array<Vector, kParts> covariance_;  // of what is not known of them
};

}  // namespace nsa::engine

#endif  // NSA_ENGINE_STEP_COST_H_
