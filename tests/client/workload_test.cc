#include "client/load/workload.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <string>
#include <utility>
#include <vector>

namespace nsa::client {
namespace {

using ::testing::HasSubstr;

WorkloadOptions Options(const char* prompt = "uniform:10:50", const char* output = "5") {
  WorkloadOptions options;
  options.seed = 11;
  options.rate = 20;
  options.prompt_tokens = *LengthDistribution::Parse(prompt);
  options.output_tokens = *LengthDistribution::Parse(output);
  return options;
}

std::vector<PlannedRequest> Take(const WorkloadOptions& options, int count, int num_warmup = 0,
                                 int64_t max_context = 1000) {
  const auto workload = MakeWorkload(options, max_context);
  EXPECT_TRUE(workload.ok()) << workload.status();
  for (int i = 0; i < num_warmup; ++i) (*workload)->Warmup(i);
  std::vector<PlannedRequest> requests;
  for (int i = 0; i < count; ++i) requests.push_back(*(*workload)->Next());
  return requests;
}

TEST(WorkloadTest, PoissonArrivals) {
  const auto requests = Take(Options(), 20'000);
  std::vector<double> gaps;
  double before = 0, sum = 0, squares = 0;
  for (const PlannedRequest& request : requests) {
    const double gap = request.arrival_s - before;
    ASSERT_GT(gap, 0);
    before = request.arrival_s;
    sum += gap;
    squares += gap * gap;
    gaps.push_back(gap);
  }
  const double n = 20'000, mean = sum / n;
  EXPECT_NEAR(mean, 1.0 / 20, 5 * 0.05 / std::sqrt(n));
  // Of an exponential distribution the deviation is the mean, and neighbours are independent.
  EXPECT_NEAR(std::sqrt(squares / n - mean * mean), mean, 0.05 * mean);
  double products = 0;
  for (size_t i = 1; i < gaps.size(); ++i) products += (gaps[i] - mean) * (gaps[i - 1] - mean);
  EXPECT_NEAR(products / n / (mean * mean), 0, 5 / std::sqrt(n));
  // Arrivals in a second: mean and variance are the rate.
  std::map<int64_t, int> counts;
  for (const PlannedRequest& r : requests) ++counts[static_cast<int64_t>(r.arrival_s)];
  double variance = 0;
  const double seconds = std::floor(before);
  for (int64_t second = 0; second < static_cast<int64_t>(seconds); ++second) {
    variance += (counts[second] - 20.0) * (counts[second] - 20.0) / seconds;
  }
  EXPECT_NEAR(variance, 20, 5 * 20 * std::sqrt(2 / seconds));
}

TEST(WorkloadTest, ConstantArrivals) {
  WorkloadOptions options = Options();
  options.poisson = false;
  const auto requests = Take(options, 100);
  for (size_t i = 0; i < requests.size(); ++i) {
    EXPECT_DOUBLE_EQ(requests[i].arrival_s, static_cast<double>(i + 1) / 20);
  }
}

TEST(WorkloadTest, TheSeedDecidesAll) {
  WorkloadOptions options = Options("lognormal:50:1", "exponential:20");
  const auto one = Take(options, 50), other = Take(options, 50, /*num_warmup=*/3);
  options.rate = 40;
  const auto faster = Take(options, 50);
  options.seed = 12;
  const auto reseeded = Take(options, 50);
  int num_equal = 0;
  for (size_t i = 0; i < one.size(); ++i) {
    EXPECT_EQ(one[i].index, static_cast<int64_t>(i));
    EXPECT_EQ(one[i].arrival_s, other[i].arrival_s) << "warming up changes nothing";
    EXPECT_EQ(one[i].prompt_tokens, other[i].prompt_tokens);
    EXPECT_EQ(one[i].prompt_tokens, faster[i].prompt_tokens) << "nor does the rate";
    EXPECT_DOUBLE_EQ(one[i].arrival_s, 2 * faster[i].arrival_s);
    num_equal += one[i].prompt_tokens == reseeded[i].prompt_tokens ? 1 : 0;
  }
  EXPECT_LT(num_equal, 10);
}

TEST(WorkloadTest, WhatDoesNotFitIsDrawnAgain) {
  WorkloadOptions options = Options("exponential:200", "lognormal:50:2");
  options.shared_prefix_tokens = 64;
  for (const PlannedRequest& request : Take(options, 5000, 0, /*max_context=*/300)) {
    ASSERT_GT(request.prompt_tokens, 64);
    ASSERT_GE(request.output_tokens, 1);
    ASSERT_LE(request.prompt_tokens + request.output_tokens, 300);
  }
}

TEST(WorkloadTest, LengthsThatCannotFitAreRefused) {
  struct Case {
    const char* prompt;
    const char* output;
    int64_t prefix;
    const char* words;
  };
  const Case cases[] = {
      {"96", "5", 0, "reach 101"},
      {"uniform:1:96", "uniform:1:5", 0, "reach 101"},
      {"normal:5:1", "100", 0, "reach 101"},
      {"uniform:10:20", "5", 10, "shared_prefix_tokens"},
      {"normal:500:1", "5", 0, "only 0 fit"},
      {"5", "exponential:1000000", 0, "fit"},
      {"normal:20:5", "5", 100, "only 0 fit"},
  };
  for (const Case& c : cases) {
    WorkloadOptions options = Options(c.prompt, c.output);
    options.shared_prefix_tokens = c.prefix;
    const auto workload = MakeWorkload(options, 100);
    EXPECT_EQ(workload.status().code(), absl::StatusCode::kInvalidArgument) << c.prompt;
    EXPECT_THAT(std::string(workload.status().message()), HasSubstr(c.words));
  }
  EXPECT_TRUE(MakeWorkload(Options("95", "5"), 100).ok());
}

TEST(WorkloadTest, Mixes) {
  WorkloadOptions options = Options();
  options.shared_prefix_tokens = 8;
  options.num_prefixes = 3;
  options.priorities = *WeightedValues::Parse("0:1,7:1", -10, 10, true);
  options.deadlines_ms = *WeightedValues::Parse("0:1,250:1", 0, 1000, false);
  options.num_cache_salts = 2;
  std::map<int64_t, int> groups, priorities, deadlines;
  std::map<std::string, int> salts;
  for (const PlannedRequest& request : Take(options, 600)) {
    EXPECT_EQ(request.prefix_tokens, 8);
    EXPECT_FALSE(request.warmup);
    ++groups[request.prefix_group];
    ++priorities[request.priority];
    ++deadlines[static_cast<int64_t>(request.deadline_ms)];
    ++salts[request.cache_salt];
  }
  EXPECT_EQ(groups.size(), 3U);
  for (const auto& [group, count] : groups) EXPECT_NEAR(count, 200, 60) << group;
  EXPECT_NEAR(priorities[0], 300, 65);
  EXPECT_EQ(priorities[0] + priorities[7], 600);
  EXPECT_NEAR(deadlines[250], 300, 65);
  EXPECT_EQ(deadlines[0] + deadlines[250], 600);
  EXPECT_NEAR(salts["salt-0"], 300, 65);
  EXPECT_EQ(salts["salt-0"] + salts["salt-1"], 600);
}

TEST(WorkloadTest, WarmupIsMarkedAndHasNoDeadline) {
  WorkloadOptions options = Options();
  options.deadlines_ms = *WeightedValues::Parse("250", 0, 1000, false);
  const auto workload = MakeWorkload(options, 1000);
  const PlannedRequest request = (*workload)->Warmup(4);
  EXPECT_TRUE(request.warmup);
  EXPECT_EQ(request.index, 4);
  EXPECT_EQ(request.deadline_ms, 0);
}

TEST(WorkloadTest, TraceIsPlayedAtItsSpeed) {
  std::vector<PlannedRequest> trace(3);
  for (size_t i = 0; i < trace.size(); ++i) {
    trace[i] = {.index = static_cast<int64_t>(i),
                .arrival_s = 2.0 * static_cast<double>(i),
                .prompt_tokens = 60,
                .output_tokens = 40};
  }
  const auto workload = MakeTraceWorkload(trace, 4, 100);
  ASSERT_TRUE(workload.ok()) << workload.status();
  EXPECT_EQ((*workload)->Warmup(5).prompt_tokens, 60);
  for (int i = 0; i < 3; ++i) EXPECT_DOUBLE_EQ((*workload)->Next()->arrival_s, 0.5 * i);
  EXPECT_FALSE((*workload)->Next().has_value());
  const auto refused = MakeTraceWorkload(trace, 1, 99);
  EXPECT_THAT(std::string(refused.status().message()), HasSubstr("request 0"));
}

}  // namespace
}  // namespace nsa::client
