#include "client/load/distribution.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <set>
#include <string>
#include <vector>

namespace nsa::client {
namespace {

using ::testing::HasSubstr;

std::vector<double> Draw(const std::string& text, int count = 100'000) {
  const auto distribution = LengthDistribution::Parse(text);
  EXPECT_TRUE(distribution.ok()) << distribution.status();
  Random random(3, RandomStream::kLengths);
  std::vector<double> values;
  for (int i = 0; i < count; ++i) {
    values.push_back(static_cast<double>(distribution->Sample(random)));
  }
  return values;
}

double Mean(const std::vector<double>& values) {
  double sum = 0;
  for (const double value : values) sum += value;
  return sum / static_cast<double>(values.size());
}

double Deviation(const std::vector<double>& values) {
  const double mean = Mean(values);
  double sum = 0;
  for (const double value : values) sum += (value - mean) * (value - mean);
  return std::sqrt(sum / static_cast<double>(values.size()));
}

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

TEST(LengthDistributionTest, FixedIsItself) {
  for (const char* text : {"17", "fixed:17"}) {
    for (const double value : Draw(text, 10)) EXPECT_EQ(value, 17);
  }
  EXPECT_EQ(LengthDistribution::Parse("17")->smallest(), 17);
  EXPECT_EQ(LengthDistribution::Parse("17")->largest(), 17);
}

TEST(LengthDistributionTest, UniformReachesBothEndsEvenly) {
  const auto values = Draw("uniform:10:14");
  EXPECT_EQ(std::set<double>(values.begin(), values.end()), (std::set<double>{10, 11, 12, 13, 14}));
  for (double length = 10; length <= 14; ++length) {
    EXPECT_NEAR(std::count(values.begin(), values.end(), length), 20'000, 5 * std::sqrt(16'000));
  }
  const auto distribution = LengthDistribution::Parse("uniform:10:14");
  EXPECT_EQ(distribution->smallest(), 10);
  EXPECT_EQ(distribution->largest(), 14);
}

TEST(LengthDistributionTest, MomentsOfTheOthers) {
  const auto normal = Draw("normal:1000:50");
  EXPECT_NEAR(Mean(normal), 1000, 5 * 50 / std::sqrt(1e5));
  EXPECT_NEAR(Deviation(normal), 50, 1);
  const auto lognormal = Draw("lognormal:1000:0.5");
  EXPECT_NEAR(Median(lognormal), 1000, 15);
  EXPECT_NEAR(Mean(lognormal), 1000 * std::exp(0.125), 15);
  const auto exponential = Draw("exponential:300");
  EXPECT_NEAR(Mean(exponential), 300, 5 * 300 / std::sqrt(1e5));
  EXPECT_NEAR(Deviation(exponential), 300, 10);
  for (const char* text : {"normal:5:1", "lognormal:5:1", "exponential:5"}) {
    EXPECT_FALSE(LengthDistribution::Parse(text)->smallest().has_value()) << text;
    EXPECT_FALSE(LengthDistribution::Parse(text)->largest().has_value()) << text;
  }
}

TEST(LengthDistributionTest, WildParametersStayNumbers) {
  for (const char* text : {"normal:1:1073741824", "lognormal:1073741824:10"}) {
    for (const double value : Draw(text, 10'000)) {
      ASSERT_GE(value, 0) << text;
      ASSERT_LE(value, 2147483648.0) << text;
    }
  }
}

TEST(LengthDistributionTest, WrongOnesAreNamed) {
  for (const char* text : {"",
                           ":",
                           "x",
                           "0",
                           "-1",
                           "1.5",
                           "nan",
                           "inf",
                           "1e99",
                           "2147483649",
                           "fixed",
                           "fixed:",
                           "fixed:1:2",
                           "uniform:3",
                           "uniform:3:2",
                           "uniform:0:2",
                           "uniform:1:2.5",
                           "uniform:1:2:3",
                           "uniform:1:1073741825",
                           "normal:5",
                           "normal:0:1",
                           "normal:5:-1",
                           "normal:5:nan",
                           "lognormal:5:11",
                           "lognormal:5:x",
                           "exponential:0",
                           "exponential:nan",
                           "exponential:1:1",
                           "zipf:5",
                           "Fixed:5"}) {
    const auto distribution = LengthDistribution::Parse(text);
    EXPECT_EQ(distribution.status().code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_THAT(std::string(distribution.status().message()),
                HasSubstr(std::string("'") + text + "'"));
  }
}

TEST(WeightedValuesTest, WeightsAreShares) {
  const auto values = WeightedValues::Parse("0:3,-5:1", -10, 10, true);
  ASSERT_TRUE(values.ok()) << values.status();
  Random random(4, RandomStream::kPriorities);
  int zeros = 0, others = 0;
  for (int i = 0; i < 40'000; ++i) {
    const double value = values->Sample(random);
    ASSERT_TRUE(value == 0 || value == -5) << value;
    ++(value == 0 ? zeros : others);
  }
  EXPECT_NEAR(others, 10'000, 5 * std::sqrt(7'500));
  EXPECT_EQ(WeightedValues::Parse("2.5", 0, 10, false)->Sample(random), 2.5);
  EXPECT_TRUE(WeightedValues::Parse("", 0, 10, false)->empty());
}

TEST(WeightedValuesTest, WrongOnesAreNamed) {
  for (const char* text : {"x", "1:", "1:0", "1:-1", "1:nan", "1:1e10", "1:2:3", "11", "-11", "nan",
                           "1.5", "1,x", "1:1,12:1"}) {
    const auto values = WeightedValues::Parse(text, -10, 10, true);
    EXPECT_EQ(values.status().code(), absl::StatusCode::kInvalidArgument) << text;
  }
  std::string many = "1";
  for (int i = 0; i < 1000; ++i) many += ",1";
  EXPECT_FALSE(WeightedValues::Parse(many, 0, 10, true).ok());
}

}  // namespace
}  // namespace nsa::client
