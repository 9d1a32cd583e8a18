#include "client/load/report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>

namespace nsa::client {
namespace {

using grpc::StatusCode;
using ::testing::HasSubstr;
using ::testing::Not;

RequestRecord Completed(double ttft_s) {
  RequestRecord record;
  record.planned = {.index = 4, .prompt_tokens = 100, .output_tokens = 11, .prefix_tokens = 0};
  record.scheduled_s = 1;
  record.sent_s = 1.001;
  record.first_token_s = 1 + ttft_s;
  record.last_token_s = record.first_token_s + 0.5;
  record.end_s = 2;
  record.gaps_s = {0.1, 0.4};
  record.prompt_tokens = 100;
  record.cached_tokens = 64;
  record.output_tokens = 11;
  record.finish_reason = "length";
  return record;
}

RequestRecord Failed(StatusCode code, const std::string& message = "words") {
  RequestRecord record;
  record.scheduled_s = 1;
  record.sent_s = 1;
  record.end_s = 4;
  record.code = code;
  record.message = message;
  return record;
}

TEST(ReportTest, JsonAddsUp) {
  Statistics statistics({.ttft_ms = 150, .e2e_ms = 5000});
  statistics.Add(Completed(0.1));
  statistics.Add(Completed(0.2));
  RequestRecord rejected = Failed(StatusCode::RESOURCE_EXHAUSTED, "full");
  rejected.retry_after_ms = 300;
  statistics.Add(rejected);
  statistics.Add(Failed(StatusCode::UNAVAILABLE));
  const auto json = ReportJson(
      {.server = "s", .model = "m", .arrivals = "poisson", .rate = 5, .seed = 9}, statistics);
  EXPECT_EQ(json["model"], "m");
  EXPECT_EQ(json["rate"], 5);
  EXPECT_EQ(json["interrupted"], false);
  EXPECT_EQ(json["duration_s"], 4);
  EXPECT_EQ(json["requests"].dump(), R"({"sent":4,"completed":2,"rejected":1,"failed":1})");
  EXPECT_EQ(json["codes"].dump(), R"({"OK":2,"RESOURCE_EXHAUSTED":1,"UNAVAILABLE":1})");
  EXPECT_EQ(json["messages"]["RESOURCE_EXHAUSTED"], "full");
  EXPECT_EQ(json["retry_after_ms"]["count"], 1);
  EXPECT_EQ(json["retry_after_ms"]["max"], 300);
  EXPECT_EQ(json["tokens"].dump(), R"({"prompt":200,"cached":128,"output":22})");
  EXPECT_EQ(json["throughput"]["requests_per_s"], 0.5);
  EXPECT_EQ(json["throughput"]["prompt_tokens_per_s"], 50);
  EXPECT_EQ(json["throughput"]["output_tokens_per_s"], 5.5);
  EXPECT_EQ(json["goodput"]["slo"].dump(), R"({"ttft_ms":150.0,"e2e_ms":5000.0})");
  EXPECT_EQ(json["goodput"]["requests"], 1);
  EXPECT_EQ(json["goodput"]["fraction"], 0.25);
  EXPECT_EQ(json["goodput"]["requests_per_s"], 0.25);
  EXPECT_NEAR(json["ttft_s"]["mean"].get<double>(), 0.15, 1e-9);
  EXPECT_NEAR(json["itl_s"]["max"].get<double>(), 0.4, 1e-9);
  EXPECT_NEAR(json["tpot_s"]["p50"].get<double>(), 0.05, 1e-9);
  EXPECT_NEAR(json["e2e_s"]["p99"].get<double>(), 1, 1e-9);
  EXPECT_EQ(json["send_delay_s"]["count"], 4);
}

TEST(ReportTest, NothingDoneHasNoWrongNumber) {
  const std::string text = ReportJson({}, Statistics({})).dump();
  EXPECT_THAT(text, Not(HasSubstr("null")));  // how this library writes NaN
  EXPECT_THAT(ReportText({}, Statistics({})), Not(HasSubstr("nan")));
}

TEST(ReportTest, TextTellsTheSame) {
  Statistics statistics({.ttft_ms = 150});
  statistics.Add(Completed(0.1));
  statistics.Add(Failed(StatusCode::INTERNAL, "oh"));
  const std::string text =
      ReportText({.server = "s", .model = "m", .arrivals = "poisson", .rate = 5}, statistics);
  EXPECT_THAT(text, HasSubstr("m at s, open loop, poisson at 5 requests/s, seed 0\n"));
  EXPECT_THAT(text, HasSubstr("2 sent in 4.00 s: 1 completed, 0 rejected, 1 failed\n"));
  EXPECT_THAT(text, HasSubstr("INTERNAL: 1, first: oh\n"));
  EXPECT_THAT(text, HasSubstr("100 prompt (64 cached), 11 output"));
  EXPECT_THAT(text, HasSubstr("50.0 % of those sent (ttft_ms <= 150)"));
  EXPECT_THAT(text, HasSubstr("TTFT             100.0     100.0     100.0     100.0     100.0\n"));
  const std::string closed = ReportText({.concurrency = 3, .interrupted = true}, statistics);
  EXPECT_THAT(closed, HasSubstr("closed loop of 3, seed 0, interrupted\n"));
}

TEST(ReportTest, Records) {
  const auto good = RecordJson(Completed(0.1), {.ttft_ms = 150});
  EXPECT_EQ(good["index"], 4);
  EXPECT_EQ(good["code"], "OK");
  EXPECT_EQ(good["good"], true);
  EXPECT_EQ(good["finish_reason"], "length");
  EXPECT_NEAR(good["ttft_s"].get<double>(), 0.1, 1e-9);
  EXPECT_NEAR(good["max_itl_s"].get<double>(), 0.4, 1e-9);
  EXPECT_TRUE(good["prefix_group"].is_null());
  const auto bad = RecordJson(Failed(StatusCode::INTERNAL), {});
  EXPECT_EQ(bad["good"], false);
  EXPECT_EQ(bad["message"], "words");
  EXPECT_FALSE(bad.contains("ttft_s"));
  EXPECT_FALSE(bad.contains("finish_reason"));
}

TEST(ReportTest, HowARunEnded) {
  const auto status = [](std::initializer_list<StatusCode> codes, const RunDescription& run = {}) {
    Statistics statistics({});
    for (const StatusCode code : codes) {
      statistics.Add(code == StatusCode::OK ? Completed(0.1) : Failed(code));
    }
    return RunStatus(run, statistics).error_code();
  };
  constexpr StatusCode kOk = StatusCode::OK, kFull = StatusCode::RESOURCE_EXHAUSTED,
                       kLate = StatusCode::DEADLINE_EXCEEDED, kGone = StatusCode::UNAVAILABLE,
                       kBug = StatusCode::INTERNAL;
  EXPECT_EQ(status({}), kOk);
  EXPECT_EQ(status({kOk, kFull, kFull, kLate}), kOk) << "what a load test may provoke";
  EXPECT_EQ(status({kFull, kFull, kLate}), kFull) << "not if nothing was completed";
  EXPECT_EQ(status({kOk, kOk, kOk, kGone}), kGone);
  EXPECT_EQ(status({kOk, kBug, kGone, kGone}), kGone);
  EXPECT_EQ(status({kOk, kGone}, {.interrupted = true}), StatusCode::CANCELLED);
  EXPECT_EQ(status({kOk, kGone}, {.timed_out = true}), kLate);
}

TEST(ReportTest, CodeNames) {
  EXPECT_STREQ(CodeName(StatusCode::OK), "OK");
  EXPECT_STREQ(CodeName(StatusCode::UNAUTHENTICATED), "UNAUTHENTICATED");
  EXPECT_STREQ(CodeName(static_cast<StatusCode>(99)), "UNKNOWN");
  EXPECT_STREQ(CodeName(StatusCode::DO_NOT_USE), "UNKNOWN");
}

}  // namespace
}  // namespace nsa::client
