#include "client/load/statistics.h"

#include <gtest/gtest.h>

#include <vector>

namespace nsa::client {
namespace {

using grpc::StatusCode;

/// Arrives at 1 s, is sent at 1.01, has tokens at 1.1, 1.2 and 1.5, ends at 1.6.
RequestRecord Completed() {
  RequestRecord record;
  record.scheduled_s = 1;
  record.sent_s = 1.01;
  record.first_token_s = 1.1;
  record.last_token_s = 1.5;
  record.end_s = 1.6;
  record.gaps_s = {0.1, 0.3};
  record.prompt_tokens = 20;
  record.cached_tokens = 5;
  record.output_tokens = 3;
  record.finish_reason = "length";
  return record;
}

RequestRecord Failed(StatusCode code, const char* message) {
  RequestRecord record;
  record.scheduled_s = 2;
  record.sent_s = 2.5;
  record.end_s = 3;
  record.code = code;
  record.message = message;
  return record;
}

TEST(StatisticsTest, QuantilesAreLinearBetweenNeighbours) {
  EXPECT_EQ(Quantile({}, 0.5), 0);
  EXPECT_EQ(Quantile({4}, 0.99), 4);
  EXPECT_DOUBLE_EQ(Quantile({1, 2, 3, 4}, 0.5), 2.5);
  EXPECT_DOUBLE_EQ(Quantile({1, 2, 3, 4}, 0), 1);
  EXPECT_DOUBLE_EQ(Quantile({1, 2, 3, 4}, 1), 4);
  EXPECT_DOUBLE_EQ(Quantile({1, 2, 3, 4, 5}, 0.9), 4.6);
}

TEST(StatisticsTest, SummaryOfUnsortedNumbers) {
  std::vector<double> values;
  for (int i = 0; i <= 100; ++i) values.push_back((i * 37) % 101);
  const Summary summary = Summarize(values);
  EXPECT_EQ(summary.count, 101);
  EXPECT_DOUBLE_EQ(summary.mean, 50);
  EXPECT_DOUBLE_EQ(summary.p50, 50);
  EXPECT_DOUBLE_EQ(summary.p90, 90);
  EXPECT_DOUBLE_EQ(summary.p99, 99);
  EXPECT_DOUBLE_EQ(summary.max, 100);
  EXPECT_EQ(Summarize({}).count, 0);
  EXPECT_EQ(Summarize({}).max, 0);
}

TEST(StatisticsTest, LatenciesCountFromTheScheduledArrival) {
  const RequestRecord record = Completed();
  EXPECT_DOUBLE_EQ(record.ttft_s(), 1.1 - 1);
  EXPECT_DOUBLE_EQ(record.e2e_s(), 1.6 - 1);
  EXPECT_DOUBLE_EQ(*record.tpot_s(), (1.5 - 1.1) / 2);
  EXPECT_DOUBLE_EQ(record.longest_gap_s(), 0.3);
}

TEST(StatisticsTest, ShortCompletions) {
  RequestRecord single = Completed();
  single.output_tokens = 1;
  single.gaps_s.clear();
  EXPECT_FALSE(single.tpot_s().has_value());
  EXPECT_EQ(single.longest_gap_s(), 0);
  RequestRecord silent = single;
  silent.first_token_s = 0;
  silent.output_tokens = 0;
  EXPECT_DOUBLE_EQ(silent.ttft_s(), silent.e2e_s()) << "its first sign of life is its end";
}

TEST(StatisticsTest, EachLimitOfAnSlo) {
  const RequestRecord record = Completed();
  EXPECT_FALSE(Slo().any());
  EXPECT_TRUE(Slo().Met(record));
  EXPECT_TRUE((Slo{.ttft_ms = 101, .itl_ms = 301, .tpot_ms = 201, .e2e_ms = 601}).Met(record));
  EXPECT_FALSE((Slo{.ttft_ms = 99}).Met(record));
  EXPECT_FALSE((Slo{.itl_ms = 299}).Met(record));
  EXPECT_FALSE((Slo{.tpot_ms = 199}).Met(record));
  EXPECT_FALSE((Slo{.e2e_ms = 599}).Met(record));
  EXPECT_FALSE((Slo{.ttft_ms = 101, .e2e_ms = 599}).Met(record)) << "all of them count";
  EXPECT_FALSE(Slo().Met(Failed(StatusCode::INTERNAL, "")));
}

TEST(StatisticsTest, CountsAndTokens) {
  Statistics statistics({.ttft_ms = 150});
  RequestRecord slow = Completed();
  slow.first_token_s = 1.2;
  RequestRecord rejected = Failed(StatusCode::RESOURCE_EXHAUSTED, "full");
  rejected.retry_after_ms = 700;
  statistics.Add(Completed());
  statistics.Add(slow);
  statistics.Add(rejected);
  statistics.Add(Failed(StatusCode::UNAVAILABLE, "first"));
  statistics.Add(Failed(StatusCode::UNAVAILABLE, "second"));
  EXPECT_EQ(statistics.num_requests(), 5);
  EXPECT_EQ(statistics.num_completed(), 2);
  EXPECT_EQ(statistics.num_rejected(), 1);
  EXPECT_EQ(statistics.num_failed(), 2);
  EXPECT_EQ(statistics.num_good(), 1);
  EXPECT_EQ(statistics.prompt_tokens(), 40);
  EXPECT_EQ(statistics.cached_tokens(), 10);
  EXPECT_EQ(statistics.output_tokens(), 6);
  EXPECT_EQ(statistics.ttft_s().count, 2) << "of completed ones alone";
  EXPECT_EQ(statistics.itl_s().count, 4) << "all gaps of all requests";
  EXPECT_EQ(statistics.send_delay_s().count, 5);
  EXPECT_DOUBLE_EQ(statistics.send_delay_s().max, 0.5);
  EXPECT_DOUBLE_EQ(statistics.retry_after_ms().mean, 700);
  EXPECT_EQ(statistics.messages().at(StatusCode::UNAVAILABLE), "first");
  EXPECT_EQ(statistics.last_end_s(), 3);
}

TEST(StatisticsTest, WarmupIsCountedApart) {
  Statistics statistics({});
  RequestRecord warmup = Completed();
  warmup.planned.warmup = true;
  warmup.end_s = 100;
  statistics.Add(warmup);
  RequestRecord failed = Failed(StatusCode::INTERNAL, "x");
  failed.planned.warmup = true;
  statistics.Add(failed);
  EXPECT_EQ(statistics.num_requests(), 0);
  EXPECT_EQ(statistics.ttft_s().count, 0);
  EXPECT_EQ(statistics.last_end_s(), 0);
  EXPECT_EQ(statistics.num_warmup(), 2);
  EXPECT_EQ(statistics.num_warmup_failed(), 1);
  EXPECT_TRUE(statistics.codes().empty());
}

}  // namespace
}  // namespace nsa::client
