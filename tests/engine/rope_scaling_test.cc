// Rotations beside their papers' formulas, written out here once more: by wavelengths and angles
// instead of frequencies, and by the edges of the ramps instead of their inside.

#include "engine/models/rope_scaling.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <numbers>
#include <string>
#include <vector>

#include "engine/weights/json_config.h"

namespace nsa::engine {
namespace {

using ::testing::AllOf;
using ::testing::DoubleNear;
using ::testing::HasSubstr;
using ::testing::Pointwise;

constexpr int kDim = 64;
constexpr double kTheta = 5e5;

MATCHER(Near, "") {
  return std::abs(std::get<0>(arg) - std::get<1>(arg)) <= 1e-12 * std::abs(std::get<1>(arg));
}

RopeParameters Parameters(const std::string& type) {
  RopeParameters p;
  p.type = type;
  p.theta = kTheta;
  p.rotary_dim = kDim;
  p.trained_context = 32768;
  return p;
}

/// Tokens of a whole turn of pair i, unscaled.
double Wavelength(int i) {
  return 2 * std::numbers::pi * std::exp(std::log(kTheta) * 2 * i / kDim);
}

std::vector<double> FromWavelengths(const std::vector<double>& wavelengths) {
  std::vector<double> frequencies;
  for (const double wavelength : wavelengths) {
    frequencies.push_back(2 * std::numbers::pi / wavelength);
  }
  return frequencies;
}

RopeFrequencies Make(const RopeParameters& p, int64_t max_context = 1000) {
  const auto rope = MakeFrequencies(p, max_context);
  EXPECT_TRUE(rope.ok()) << rope.status();
  return rope.value_or(RopeFrequencies());
}

std::string Refusal(const RopeParameters& p) {
  const auto rope = MakeFrequencies(p, 1000);
  EXPECT_FALSE(rope.ok());
  return std::string(rope.status().message());
}

TEST(RopeScaling, LeavesDefaultAndDynamicAsTrained) {
  std::vector<double> wavelengths;
  for (int i = 0; i < kDim / 2; ++i) wavelengths.push_back(Wavelength(i));
  for (const char* type : {"default", "none", "dynamic"}) {
    RopeParameters p = Parameters(type);
    p.factor = 4;
    const RopeFrequencies rope = Make(p);
    EXPECT_THAT(rope.inverse_frequencies, Pointwise(Near(), FromWavelengths(wavelengths))) << type;
    EXPECT_EQ(rope.attention_factor, 1) << type;
  }
}

TEST(RopeScaling, LinearMakesWavesLonger) {
  RopeParameters p = Parameters("linear");
  p.factor = 8;
  std::vector<double> wavelengths;
  for (int i = 0; i < kDim / 2; ++i) wavelengths.push_back(8 * Wavelength(i));
  EXPECT_THAT(Make(p).inverse_frequencies, Pointwise(Near(), FromWavelengths(wavelengths)));
}

TEST(RopeScaling, Llama3BlendsBetweenShortAndLongWaves) {
  RopeParameters p = Parameters("llama3");
  p.factor = 8;
  p.low_freq_factor = 1;
  p.high_freq_factor = 4;
  p.original_context = 8192;
  const double longest = 8192.0 / 1, shortest = 8192.0 / 4;
  std::vector<double> expected;
  int num_blended = 0;
  for (int i = 0; i < kDim / 2; ++i) {
    const double wave = Wavelength(i), frequency = 2 * std::numbers::pi / wave;
    if (wave < shortest) {
      expected.push_back(frequency);
    } else if (wave > longest) {
      expected.push_back(frequency / 8);
    } else {
      ++num_blended;
      const double share = (8192.0 / wave - 1) / (4 - 1);
      expected.push_back((1 - share) * frequency / 8 + share * frequency);
    }
  }
  EXPECT_GT(num_blended, 1);
  EXPECT_THAT(Make(p).inverse_frequencies, Pointwise(Near(), expected));
}

// Equations 17 to 22 of the paper: r(d) is the number of turns in the original context.
TEST(RopeScaling, YarnRampsByTurns) {
  RopeParameters p = Parameters("yarn");
  p.factor = 4;
  p.original_context = 4096;
  p.beta_fast = 32;
  p.beta_slow = 1;
  p.truncate = false;
  // Where a pair would make 32 turns and 1 turn: i with 4096 / Wavelength(i) turns.
  const auto pair_of = [](double turns) {
    return std::log(4096 / turns / (2 * std::numbers::pi)) / std::log(kTheta) * kDim / 2;
  };
  std::vector<double> expected;
  for (int i = 0; i < kDim / 2; ++i) {
    const double turns = 4096 / Wavelength(i);
    double stretched = (i - pair_of(32)) / (pair_of(1) - pair_of(32));
    if (turns > 32) stretched = 0;
    if (turns < 1) stretched = 1;
    const double frequency = 2 * std::numbers::pi / Wavelength(i);
    expected.push_back(stretched * frequency / 4 + (1 - stretched) * frequency);
  }
  const RopeFrequencies rope = Make(p);
  for (size_t i = 0; i < expected.size(); ++i) {
    EXPECT_THAT(rope.inverse_frequencies[i], DoubleNear(expected[i], 1e-9 * expected[i])) << i;
  }
  EXPECT_DOUBLE_EQ(rope.attention_factor, 0.1 * std::log(4.0) + 1);
}

TEST(RopeScaling, YarnTruncatesTheRampToWholePairs) {
  RopeParameters p = Parameters("yarn");
  p.factor = 4;
  p.original_context = 4096;
  const RopeFrequencies rope = Make(p);
  int first = 0, last = 0;  // of the ramp, which begins before it and ends behind it
  for (int i = 0; i < kDim / 2; ++i) {
    const double stretch =
        2 * std::numbers::pi / Wavelength(i) / rope.inverse_frequencies[static_cast<size_t>(i)];
    if (stretch < 1 + 1e-9) first = i;
    if (stretch < 4 - 1e-9) last = i;
  }
  EXPECT_EQ(first, 7);  // 7.33 pairs make 32 turns
  EXPECT_EQ(last, 15);  // 15.78 make one, so the ramp ends at 16
}

TEST(RopeScaling, YarnTakesTheAttentionFactorThatIsNamed) {
  RopeParameters p = Parameters("yarn");
  p.factor = 40;
  p.original_context = 4096;
  p.mscale = 1;
  p.mscale_all_dim = 0.5;
  EXPECT_DOUBLE_EQ(Make(p).attention_factor,
                   (0.1 * std::log(40.0) + 1) / (0.05 * std::log(40.0) + 1));
  p.mscale_all_dim = 0;
  EXPECT_DOUBLE_EQ(Make(p).attention_factor, 0.1 * std::log(40.0) + 1);
  p.attention_factor = 1.25;
  EXPECT_DOUBLE_EQ(Make(p).attention_factor, 1.25);
  p.attention_factor.reset();
  p.factor = 1;
  EXPECT_DOUBLE_EQ(Make(p).attention_factor, 1);
}

TEST(RopeScaling, LongropeHasFactorsForEitherSideOfTheOriginalContext) {
  RopeParameters p = Parameters("longrope");
  p.factor = 32;
  p.original_context = 4096;
  std::vector<double> near, far;
  for (int i = 0; i < kDim / 2; ++i) {
    p.short_factor.push_back(1 + 0.1 * i);
    p.long_factor.push_back(2 + 3 * i);
    near.push_back(Wavelength(i) * (1 + 0.1 * i));
    far.push_back(Wavelength(i) * (2 + 3 * i));
  }
  EXPECT_THAT(Make(p, 4096).inverse_frequencies, Pointwise(Near(), FromWavelengths(near)));
  const RopeFrequencies rope = Make(p, 4097);
  EXPECT_THAT(rope.inverse_frequencies, Pointwise(Near(), FromWavelengths(far)));
  EXPECT_DOUBLE_EQ(rope.attention_factor, std::sqrt(1 + std::log(32.0) / std::log(4096.0)));
  p.short_factor.pop_back();
  EXPECT_THAT(Refusal(p), AllOf(HasSubstr("short_factor"), HasSubstr("31"), HasSubstr("32")));
  p.short_factor.push_back(0);
  EXPECT_THAT(Refusal(p), HasSubstr("short_factor is 0"));
}

TEST(RopeScaling, DividesByTheFactorsOfATensor) {
  RopeParameters p = Parameters("default");
  p.frequency_divisors.assign(kDim / 2, 1);
  p.frequency_divisors[3] = 8;
  std::vector<double> wavelengths;
  for (int i = 0; i < kDim / 2; ++i) wavelengths.push_back(Wavelength(i) * (i == 3 ? 8 : 1));
  EXPECT_THAT(Make(p).inverse_frequencies, Pointwise(Near(), FromWavelengths(wavelengths)));
  p.frequency_divisors[5] = 0;
  EXPECT_THAT(Refusal(p), HasSubstr("above 0"));
}

TEST(RopeScaling, RefusesWhatCannotBe) {
  constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  const auto with = [](const std::string& type, auto change) {
    RopeParameters p = Parameters(type);
    p.factor = 2;
    change(p);
    return Refusal(p);
  };
  for (const double theta : {0.0, 1.0, -1e4, kNan, kInfinity}) {
    EXPECT_THAT(with("default", [&](auto& p) { p.theta = theta; }), HasSubstr("rope_theta"));
  }
  for (const double factor : {0.0, 0.5, -1.0, kNan, kInfinity}) {
    EXPECT_THAT(with("linear", [&](auto& p) { p.factor = factor; }), HasSubstr("factor"));
  }
  for (const double context : {1.0, -1.0, kNan, kInfinity}) {
    EXPECT_THAT(with("yarn", [&](auto& p) { p.original_context = context; }),
                HasSubstr("original_max_position_embeddings"));
  }
  for (const double factor : {0.0, -1.0, 1e300, kNan}) {
    EXPECT_THAT(with("yarn", [&](auto& p) { p.attention_factor = factor; }),
                HasSubstr("attention_factor"));
  }
  EXPECT_THAT(with("yarn", [](auto& p) { p.mscale = 1e300, p.mscale_all_dim = 1; }),
              HasSubstr("attention factor"));
  EXPECT_THAT(with("yarn", [](auto& p) { p.beta_slow = 0; }), HasSubstr("beta_slow"));
  EXPECT_THAT(with("yarn", [](auto& p) { p.beta_fast = -1; }), HasSubstr("beta_fast"));
  EXPECT_THAT(with("llama3", [](auto& p) { p.low_freq_factor = p.high_freq_factor; }),
              HasSubstr("high_freq_factor"));
  EXPECT_THAT(with("llama3", [](auto& p) { p.low_freq_factor = 0; }), HasSubstr("low_freq_factor"));
  EXPECT_THAT(with("ntk", [](auto&) {}), HasSubstr("'ntk'"));
}

absl::Status Read(const std::string& text, RopeParameters& p, std::string_view layer_type = "") {
  const auto config = JsonConfig::Parse(text, "config.json");
  EXPECT_TRUE(config.ok()) << config.status();
  p.trained_context = 131072;
  return ReadRopeParameters(*config, layer_type, p);
}

TEST(RopeScaling, ReadsOldAndNewNames) {
  for (const char* text :
       {R"({"rope_theta":5e5,"rope_scaling":{"rope_type":"yarn","factor":4,"beta_fast":16}})",
        R"({"rope_theta":5e5,"rope_scaling":{"type":"yarn","factor":4.0,"beta_fast":16}})",
        R"({"rope_parameters":{"rope_type":"yarn","factor":4,"beta_fast":16,"rope_theta":5e5}})"}) {
    RopeParameters p;
    const absl::Status status = Read(text, p);
    EXPECT_TRUE(status.ok()) << status;
    EXPECT_EQ(p.type, "yarn");
    EXPECT_EQ(p.theta, 5e5);
    EXPECT_EQ(p.factor, 4);
    EXPECT_EQ(p.beta_fast, 16);
    EXPECT_EQ(p.beta_slow, 1);
  }
  RopeParameters p;
  EXPECT_TRUE(Read(R"({"rope_scaling":null})", p).ok());
  EXPECT_EQ(p.type, "default");
}

TEST(RopeScaling, ReadsWhatDiffersByTheTypeOfALayer) {
  const std::string text =
      R"({"rope_parameters":{"full_attention":{"rope_type":"linear","factor":8,"rope_theta":1e6},)"
      R"("sliding_attention":{"rope_type":"default","rope_theta":1e4}}})";
  RopeParameters full, sliding, neither;
  EXPECT_TRUE(Read(text, full, "full_attention").ok());
  EXPECT_TRUE(Read(text, sliding, "sliding_attention").ok());
  EXPECT_EQ(full.theta, 1e6);
  EXPECT_EQ(full.factor, 8);
  EXPECT_EQ(sliding.type, "default");
  EXPECT_EQ(sliding.theta, 1e4);
  EXPECT_THAT(Read(text, neither).ToString(), HasSubstr("differ by the type of a layer"));
  EXPECT_THAT(Read(R"({"rope_parameters":{"rope_theta":1e6}})", full, "full_attention").ToString(),
              HasSubstr("do not differ"));
}

TEST(RopeScaling, DerivesTheFactorOfAStretchedCheckpoint) {
  RopeParameters p;
  EXPECT_TRUE(Read(R"({"original_max_position_embeddings":4096,)"
                   R"("rope_scaling":{"type":"longrope","short_factor":[1],"long_factor":[2]}})",
                   p)
                  .ok());
  EXPECT_EQ(p.factor, 32);
  EXPECT_EQ(p.original_context, 4096);
  EXPECT_THAT(Read(R"({"rope_scaling":{"type":"linear"}})", p).ToString(),
              AllOf(HasSubstr("rope_scaling.factor"), HasSubstr("missing")));
}

TEST(RopeScaling, RefusesFieldsThatWouldBePassedOver) {
  RopeParameters p;
  EXPECT_THAT(Read(R"({"rope_scaling":"yarn"})", p).ToString(), HasSubstr("rope_scaling"));
  EXPECT_THAT(Read(R"({"rope_parameters":[1]})", p).ToString(), HasSubstr("rope_parameters"));
  EXPECT_THAT(Read(R"({"rope_parameters":{"full_attention":1}})", p, "full_attention").ToString(),
              HasSubstr("full_attention"));
  EXPECT_THAT(Read(R"({"rope_parameters":{"rope_theta":1e4},"rope_scaling":{"type":"yarn"}})", p)
                  .ToString(),
              HasSubstr("both set"));
  EXPECT_THAT(Read(R"({"rope_scaling":{"type":"yarn","factor":"4"}})", p).ToString(),
              HasSubstr("rope_scaling.factor"));
}

}  // namespace
}  // namespace nsa::engine
