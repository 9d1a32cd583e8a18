#ifndef NSA_ENGINE_MODELS_ROPE_SCALING_H_
#define NSA_ENGINE_MODELS_ROPE_SCALING_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/weights/config_source.h"

namespace nsa::engine {

/// How a checkpoint stretches its rotations, in the words of Hugging Face's `rope_parameters`.
struct RopeParameters {
  std::string type = "default";  // default, linear, dynamic, llama3, yarn or longrope
  double theta = 10000;
  int rotary_dim = 0;  // even
  double factor = 1;
  double original_context = 0;  // tokens before stretching; 0: trained_context
  int64_t trained_context = 0;
  // llama3
  double low_freq_factor = 1, high_freq_factor = 4;
  // yarn
  double beta_fast = 32, beta_slow = 1;
  std::optional<double> mscale, mscale_all_dim;
  bool truncate = true;
  // yarn and longrope
  std::optional<double> attention_factor;
  // longrope: one factor for each frequency
  std::vector<double> short_factor, long_factor;
  std::vector<double> frequency_divisors;  // of any type, as GGUF has them in a tensor; or empty
};

struct RopeFrequencies {
  std::vector<double> inverse_frequencies;  // [rotary_dim / 2], radians a token
  double attention_factor = 1;              // of cosines and sines, so of q·k its square
};

/// The rotations of a model that is to serve `max_context` tokens. Sources: llama3 as Llama 3.1's
/// release; YaRN: Peng et al. 2023 (arXiv 2309.00071), equations 17 to 22; longrope: Ding et al.
/// 2024 (arXiv 2402.13753), whose long factors count where max_context is above the original
/// context (one set for a server's life: keys that are cached cannot be turned again). "dynamic"
/// changes nothing within the trained context, and so is read as "default".
absl::StatusOr<RopeFrequencies> MakeFrequencies(const RopeParameters& parameters,
                                                int64_t max_context);

/// From config.json: `rope_parameters` (transformers 5), or `rope_scaling` and `rope_theta`
/// (before). `layer_type`: the name below `rope_parameters` where layers differ ("full_attention"),
/// or empty. Sets all but theta's default, rotary_dim and trained_context, which the caller has
/// set.
absl::Status ReadRopeParameters(const ConfigSource& config, std::string_view layer_type,
                                RopeParameters& parameters);

/// The same from GGUF's `<architecture>.rope.*`.
absl::Status ReadGgufRopeParameters(const ConfigSource& file, std::string_view architecture,
                                    RopeParameters& parameters);

}  // namespace nsa::engine

#endif  // NSA_ENGINE_MODELS_ROPE_SCALING_H_
