#ifndef NSA_CLIENT_LOAD_DISTRIBUTION_H_
#define NSA_CLIENT_LOAD_DISTRIBUTION_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "client/load/random.h"

namespace nsa::client {

/// How lengths in tokens are spread.
class LengthDistribution {
 public:
  /// "N" or "fixed:N"; "uniform:A:B", both included; "normal:MEAN:SIGMA"; "lognormal:MEDIAN:SIGMA"
  /// with SIGMA of the logarithm; "exponential:MEAN". Lengths are 1 to 2^30, SIGMA at least 0 and
  /// at most 2^30 (lognormal: 10). InvalidArgument says what is wrong.
  static absl::StatusOr<LengthDistribution> Parse(absl::string_view text);

  /// Rounded to a whole number from 0 to 2^31; what is too short or too long for its purpose is the
  /// caller's to draw again.
  int64_t Sample(Random& random) const;

  /// The least and the largest length, where the distribution has these.
  std::optional<int64_t> smallest() const;
  std::optional<int64_t> largest() const;

 private:
  enum class Kind { kFixed, kUniform, kNormal, kLognormal, kExponential };
  struct Form;
  static const std::vector<Form>& Forms();

  Kind kind_ = Kind::kFixed;
  double first_ = 1;
  double second_ = 0;
};

/// Values with weights, such as priorities: "V:W,V:W" or "V" alone.
class WeightedValues {
 public:
  /// Values within [low, high], whole ones where `whole`; weights above 0 and at most 1e9; at most
  /// 1,000 values. An empty text is an empty list. InvalidArgument says what is wrong.
  static absl::StatusOr<WeightedValues> Parse(absl::string_view text, double low, double high,
                                              bool whole);

  bool empty() const { return values_.empty(); }
  /// One of the values, which must not be empty.
  double Sample(Random& random) const;

 private:
  std::vector<double> values_;
  std::vector<double> cumulative_;  // weights up to and with each value
};

}  // namespace nsa::client

#endif  // NSA_CLIENT_LOAD_DISTRIBUTION_H_
