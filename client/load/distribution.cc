#include "client/load/distribution.h"

#include <algorithm>
#include <cmath>
#include <iterator>

#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace nsa::client {
namespace {

constexpr double kLongest = 1 << 30;
constexpr double kLargestSample = 2.0 * kLongest;
constexpr double kLargestWeight = 1e9;
constexpr size_t kMostValues = 1000;

bool IsWhole(double value) { return value == std::floor(value); }

}  // namespace

struct LengthDistribution::Form {
  absl::string_view name;
  Kind kind;
  size_t num_parameters;
  bool whole;           // the parameters are lengths
  double least_second;  // of the second parameter
  double most_second;
};

const std::vector<LengthDistribution::Form>& LengthDistribution::Forms() {
  static const auto* const forms = new std::vector<Form>{
      {"fixed", Kind::kFixed, 1, true, 0, 0},
      {"uniform", Kind::kUniform, 2, true, 1, kLongest},
      {"normal", Kind::kNormal, 2, false, 0, kLongest},
      {"lognormal", Kind::kLognormal, 2, false, 0, 10},
      {"exponential", Kind::kExponential, 1, false, 0, 0},
  };
  return *forms;
}

absl::StatusOr<LengthDistribution> LengthDistribution::Parse(absl::string_view text) {
  const auto bad = [text](absl::string_view why) {
    return absl::InvalidArgumentError(absl::StrCat(
        "'", text, "' is no distribution of lengths: ", why,
        "; expected N, fixed:N, uniform:A:B, normal:MEAN:SIGMA, lognormal:MEDIAN:SIGMA or "
        "exponential:MEAN"));
  };
  std::vector<std::string> parts = absl::StrSplit(text, ':');
  if (parts.size() == 1) parts.insert(parts.begin(), "fixed");
  const auto form = std::find_if(Forms().begin(), Forms().end(),
                                 [&](const Form& each) { return each.name == parts[0]; });
  if (form == Forms().end()) return bad("its name is not known");
  if (parts.size() != form->num_parameters + 1) return bad("wrong number of parameters");
  double values[2] = {0, 0};
  for (size_t i = 0; i < form->num_parameters; ++i) {
    if (!absl::SimpleAtod(parts[i + 1], &values[i])) return bad("a parameter is no number");
    if (form->whole && !IsWhole(values[i])) return bad("a length is a whole number");
  }
  // Comparisons are false for NaN.
  if (!(values[0] >= 1 && values[0] <= kLongest)) return bad("a length is 1 to 2^30");
  if (!(values[1] >= form->least_second && values[1] <= form->most_second)) {
    return bad(absl::StrCat("the second parameter is ", form->least_second, " to ",
                            static_cast<int64_t>(form->most_second)));
  }
  LengthDistribution distribution;
  distribution.kind_ = form->kind;
  distribution.first_ = values[0];
  distribution.second_ = values[1];
  if (form->kind == Kind::kUniform && values[0] > values[1]) return bad("A is larger than B");
  return distribution;
}

int64_t LengthDistribution::Sample(Random& random) const {
  double value = first_;
  switch (kind_) {
    case Kind::kFixed:
      break;
    case Kind::kUniform:
      value += static_cast<double>(random.Below(static_cast<int64_t>(second_ - first_) + 1));
      break;
    case Kind::kNormal:
      value += second_ * random.Normal();
      break;
    case Kind::kLognormal:
      value *= std::exp(second_ * random.Normal());
      break;
    case Kind::kExponential:
      value *= random.Exponential();
      break;
  }
  return std::llround(std::clamp(value, 0.0, kLargestSample));
}

std::optional<int64_t> LengthDistribution::smallest() const {
  if (kind_ != Kind::kFixed && kind_ != Kind::kUniform) return std::nullopt;
  return static_cast<int64_t>(first_);
}

std::optional<int64_t> LengthDistribution::largest() const {
  if (kind_ != Kind::kFixed && kind_ != Kind::kUniform) return std::nullopt;
  return static_cast<int64_t>(kind_ == Kind::kFixed ? first_ : second_);
}

absl::StatusOr<WeightedValues> WeightedValues::Parse(absl::string_view text, double low,
                                                     double high, bool whole) {
  WeightedValues result;
  for (const absl::string_view word : absl::StrSplit(text, ',', absl::SkipEmpty())) {
    const std::vector<std::string> parts = absl::StrSplit(word, ':');
    double value = 0, weight = 1;
    if (parts.size() > 2 || !absl::SimpleAtod(parts[0], &value) ||
        (parts.size() == 2 && !absl::SimpleAtod(parts[1], &weight))) {
      return absl::InvalidArgumentError(
          absl::StrCat("'", word, "' is no VALUE or VALUE:WEIGHT with numbers"));
    }
    if (!(value >= low && value <= high) || (whole && !IsWhole(value))) {
      return absl::InvalidArgumentError(absl::StrCat(
          "'", word, "': expected ", whole ? "a whole number from " : "", low, " to ", high));
    }
    if (!(weight > 0 && weight <= kLargestWeight)) {
      return absl::InvalidArgumentError(
          absl::StrCat("'", word, "': a weight is above 0 and at most 1e9"));
    }
    if (result.values_.size() == kMostValues) {
      return absl::InvalidArgumentError(absl::StrCat("more than ", kMostValues, " values"));
    }
    const double before = result.cumulative_.empty() ? 0 : result.cumulative_.back();
    result.values_.push_back(value);
    result.cumulative_.push_back(before + weight);
  }
  return result;
}

double WeightedValues::Sample(Random& random) const {
  const double at = random.Uniform() * cumulative_.back();
  const auto found = std::upper_bound(cumulative_.begin(), std::prev(cumulative_.end()), at);
  return values_[static_cast<size_t>(found - cumulative_.begin())];
}

}  // namespace nsa::client
