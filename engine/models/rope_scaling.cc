#include "engine/models/rope_scaling.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/attention/rope_table.h"
#include "engine/text.h"
#include "engine/weights/byte_cursor.h"

namespace nsa::engine {
namespace {

constexpr double kTwoPi = 2 * std::numbers::pi;

absl::Status Invalid(std::string_view field, double value, std::string_view expected) {
  return absl::InvalidArgumentError(
      absl::StrCat("rope: ", View(field), " is ", value, ", expected ", View(expected)));
}

// Of cosines and sines; published checkpoints stay below 2.
constexpr double kMaxAttentionFactor = 100;

double OriginalContext(const RopeParameters& p) {
  return p.original_context > 0 ? p.original_context : static_cast<double>(p.trained_context);
}

/// Frequencies whose wavelength is long beside the original context are divided by the factor,
/// short ones stay, and those between are blended.
absl::Status ScaleLlama3(const RopeParameters& p, std::vector<double>& frequencies) {
  if (!(p.low_freq_factor > 0)) return Invalid("low_freq_factor", p.low_freq_factor, "above 0");
  if (!(p.high_freq_factor > p.low_freq_factor)) {
    return Invalid("high_freq_factor", p.high_freq_factor, "above low_freq_factor");
  }
  const double context = OriginalContext(p);
  for (double& frequency : frequencies) {
    const double turns = context * frequency / kTwoPi;  // in the original context
    if (turns > p.high_freq_factor) continue;
    if (turns < p.low_freq_factor) {
      frequency /= p.factor;
      continue;
    }
    const double smooth = (turns - p.low_freq_factor) / (p.high_freq_factor - p.low_freq_factor);
    frequency *= (1 - smooth) / p.factor + smooth;
  }
  return absl::OkStatus();
}

double YarnMscale(double factor, double mscale) {
  return factor <= 1 ? 1 : 0.1 * mscale * std::log(factor) + 1;
}

absl::Status ScaleYarn(const RopeParameters& p, RopeFrequencies& rope) {
  if (!(p.beta_slow > 0)) return Invalid("beta_slow", p.beta_slow, "above 0");
  if (!(p.beta_fast > 0)) return Invalid("beta_fast", p.beta_fast, "above 0");
  // The dimension whose frequency makes `turns` turns in the original context.
  const auto dimension_of = [&](double turns) {
    return p.rotary_dim * std::log(OriginalContext(p) / (turns * kTwoPi)) / (2 * std::log(p.theta));
  };
  double low = dimension_of(p.beta_fast), high = dimension_of(p.beta_slow);
  if (p.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, p.rotary_dim - 1.0);
  if (low == high) high += 0.001;
  for (size_t i = 0; i < rope.inverse_frequencies.size(); ++i) {
    const double ramp = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
    rope.inverse_frequencies[i] *= ramp / p.factor + (1 - ramp);
  }
  if (p.attention_factor.has_value()) {
    rope.attention_factor = *p.attention_factor;
  } else if (p.mscale.value_or(0) != 0 && p.mscale_all_dim.value_or(0) != 0) {
    rope.attention_factor =
        YarnMscale(p.factor, *p.mscale) / YarnMscale(p.factor, *p.mscale_all_dim);
  } else {
    rope.attention_factor = YarnMscale(p.factor, 1);
  }
  return absl::OkStatus();
}

absl::Status CheckLongFactors(std::string_view name, const std::vector<double>& factors,
                              size_t size) {
  if (factors.size() != size) {
    return Invalid(absl::StrCat("length of ", View(name)), static_cast<double>(factors.size()),
                   absl::StrCat(size, ", half the rotated dimensions"));
  }
  for (const double factor : factors) {
    if (!(factor > 0)) return Invalid(name, factor, "above 0");
  }
  return absl::OkStatus();
}

absl::Status ScaleLong(const RopeParameters& p, int64_t max_context, RopeFrequencies& rope) {
  const double context = OriginalContext(p);
  const size_t size = rope.inverse_frequencies.size();
  // Both, whichever is used: a wrong file shows before its longer contexts are asked for.
  if (auto s = CheckLongFactors("short_factor", p.short_factor, size); !s.ok()) return s;
  if (auto s = CheckLongFactors("long_factor", p.long_factor, size); !s.ok()) return s;
  const bool is_long = static_cast<double>(max_context) > context;
  const std::vector<double>& factors = is_long ? p.long_factor : p.short_factor;
  for (size_t i = 0; i < size; ++i) rope.inverse_frequencies[i] /= factors[i];
  if (p.attention_factor.has_value()) {
    rope.attention_factor = *p.attention_factor;
  } else if (p.factor > 1) {
    rope.attention_factor = std::sqrt(1 + std::log(p.factor) / std::log(context));
  }
  return absl::OkStatus();
}

absl::Status CheckParameters(const RopeParameters& p) {
  if (!(p.theta > 1) || !std::isfinite(p.theta)) return Invalid("rope_theta", p.theta, "above 1");
  if (!(p.factor >= 1) || !std::isfinite(p.factor)) {
    return Invalid("factor", p.factor, "at least 1");
  }
  if (!(OriginalContext(p) > 1) || !(p.original_context >= 0) ||
      !std::isfinite(p.original_context)) {
    return Invalid("original_max_position_embeddings", p.original_context, "above 1");
  }
  if (p.attention_factor.has_value() &&
      !(*p.attention_factor > 0 && *p.attention_factor <= kMaxAttentionFactor)) {
    return Invalid("attention_factor", *p.attention_factor,
                   absl::StrCat("above 0, at most ", kMaxAttentionFactor));
  }
  return absl::OkStatus();
}

/// Reads fields that may be absent; keeps the first error.
class OptionalFields {
 public:
  OptionalFields(const ConfigSource& source, std::string prefix)
      : source_(source), prefix_(std::move(prefix)) {}

  template <typename T>
  void Float(std::string_view name, T& target) {
    Take(name, target, [&](const std::string& key) { return source_.GetFloat(key); });
  }
  void Bool(std::string_view name, bool& target) {
    Take(name, target, [&](const std::string& key) { return source_.GetBool(key); });
  }
  void String(std::string_view name, std::string& target) {
    Take(name, target, [&](const std::string& key) { return source_.GetString(key); });
  }
  void Floats(std::string_view name, std::vector<double>& target) {
    Take(name, target, [&](const std::string& key) { return source_.GetFloats(key); });
  }
  bool Has(std::string_view name) const { return source_.Has(absl::StrCat(prefix_, View(name))); }
  const absl::Status& status() const { return status_; }

 private:
  template <typename T, typename Read>
  void Take(std::string_view name, T& target, const Read& read) {
    const std::string key = absl::StrCat(prefix_, View(name));
    if (!status_.ok() || !source_.Has(key)) return;
    auto value = read(key);
    if (value.ok()) {
      target = *std::move(value);
    } else {
      status_ = value.status();
    }
  }

  const ConfigSource& source_;
  std::string prefix_;
  absl::Status status_;
};

/// Where a configuration has the rotation of `layer_type`: a prefix of keys.
absl::StatusOr<std::string> FindRopeSection(const ConfigSource& config,
                                            std::string_view layer_type) {
  const auto refuse = [&](const auto&... parts) {
    return absl::InvalidArgumentError(absl::StrCat(config.path(), ": ", parts...));
  };
  for (const char* section : {"rope_parameters", "rope_scaling"}) {
    if (config.Has(section) && !config.IsObject(section)) {
      return refuse("field '", section, "' is no object");
    }
  }
  if (!config.Has("rope_parameters")) return "rope_scaling.";
  if (config.Has("rope_scaling")) {
    return refuse("rope_parameters and rope_scaling are both set; keep the one that is meant");
  }
  std::string prefix = "rope_parameters.";
  const std::string nested = absl::StrCat(prefix, View(layer_type));
  if (layer_type.empty()) {
    if (config.IsObject("rope_parameters.full_attention")) {
      return refuse("rope_parameters differ by the type of a layer, which this family does not");
    }
    return prefix;
  }
  if (config.Has(nested) && !config.IsObject(nested)) {
    return refuse("field '", nested, "' is no object");
  }
  if (config.Has("rope_parameters.rope_type") || config.Has("rope_parameters.rope_theta")) {
    return refuse("rope_parameters do not differ by the type of a layer, which this family needs");
  }
  return absl::StrCat(nested, ".");
}

/// Types that mean nothing without a factor.
bool NeedsFactor(std::string_view type) {
  return type == "linear" || type == "dynamic" || type == "llama3";
}

}  // namespace

absl::StatusOr<RopeFrequencies> MakeFrequencies(const RopeParameters& parameters,
                                                int64_t max_context) {
  if (absl::Status status = CheckParameters(parameters); !status.ok()) return status;
  RopeFrequencies rope{.inverse_frequencies =
                           InverseFrequencies(parameters.theta, parameters.rotary_dim)};
  absl::Status status;
  if (parameters.type == "linear") {
    for (double& frequency : rope.inverse_frequencies) frequency /= parameters.factor;
  } else if (parameters.type == "llama3") {
    status = ScaleLlama3(parameters, rope.inverse_frequencies);
  } else if (parameters.type == "yarn") {
    status = ScaleYarn(parameters, rope);
  } else if (parameters.type == "longrope" || parameters.type == "su") {
    status = ScaleLong(parameters, max_context, rope);
  } else if (parameters.type != "default" && parameters.type != "none" &&
             parameters.type != "dynamic") {
    return absl::UnimplementedError(
        absl::StrCat("rope: type is ", Quoted(parameters.type),
                     "; this server knows: default, linear, dynamic, llama3, yarn, longrope"));
  }
  if (!status.ok()) return status;
  // mscale and the like may say anything.
  if (!(rope.attention_factor > 0 && rope.attention_factor <= kMaxAttentionFactor)) {
    return Invalid("attention factor", rope.attention_factor,
                   absl::StrCat("above 0, at most ", kMaxAttentionFactor));
  }
  for (size_t i = 0; i < parameters.frequency_divisors.size(); ++i) {
    const double divisor = parameters.frequency_divisors[i];
    if (!(divisor > 0)) return Invalid("factor of a frequency", divisor, "above 0");
    rope.inverse_frequencies[i] /= divisor;
  }
  return rope;
}

absl::Status ReadRopeParameters(const ConfigSource& config, std::string_view layer_type,
                                RopeParameters& parameters) {
  OptionalFields top(config, "");
  top.Float("rope_theta", parameters.theta);
  top.Float("original_max_position_embeddings", parameters.original_context);
  const auto prefix = FindRopeSection(config, layer_type);
  if (!prefix.ok()) return prefix.status();
  OptionalFields fields(config, *prefix);
  fields.String("type", parameters.type);
  fields.String("rope_type", parameters.type);
  fields.Float("rope_theta", parameters.theta);
  fields.Float("factor", parameters.factor);
  fields.Float("original_max_position_embeddings", parameters.original_context);
  fields.Float("low_freq_factor", parameters.low_freq_factor);
  fields.Float("high_freq_factor", parameters.high_freq_factor);
  fields.Float("beta_fast", parameters.beta_fast);
  fields.Float("beta_slow", parameters.beta_slow);
  fields.Float("mscale", parameters.mscale);
  fields.Float("mscale_all_dim", parameters.mscale_all_dim);
  fields.Bool("truncate", parameters.truncate);
  fields.Float("attention_factor", parameters.attention_factor);
  fields.Floats("short_factor", parameters.short_factor);
  fields.Floats("long_factor", parameters.long_factor);
  if (!fields.Has("factor") && NeedsFactor(parameters.type)) {
    return absl::InvalidArgumentError(absl::StrCat(config.path(), ": field '", *prefix,
                                                   "factor' is missing, which rope type '",
                                                   parameters.type, "' needs"));
  }
  // Without a factor of its own a checkpoint was stretched as far as it was trained.
  if (!fields.Has("factor") && parameters.original_context > 0) {
    parameters.factor = std::max(
        1.0, static_cast<double>(parameters.trained_context) / parameters.original_context);
  }
  return top.status().ok() ? fields.status() : top.status();
}

absl::Status ReadGgufRopeParameters(const ConfigSource& file, std::string_view architecture,
                                    RopeParameters& parameters) {
  OptionalFields fields(file, absl::StrCat(View(architecture), ".rope."));
  fields.Float("freq_base", parameters.theta);
  fields.String("scaling.type", parameters.type);
  fields.Float("scaling.factor", parameters.factor);
  if (!fields.status().ok()) return fields.status();
  const std::string context =
      absl::StrCat(View(architecture), ".rope.scaling.original_context_length");
  if (!file.Has(context)) return absl::OkStatus();
  const auto tokens = file.GetInt(context);
  if (!tokens.ok()) return tokens.status();
  parameters.original_context = static_cast<double>(*tokens);
  return absl::OkStatus();
}

}  // namespace nsa::engine
