#include "server/prometheus_metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <sstream>
#include <string>

#include "absl/strings/str_cat.h"
#include "prometheus/text_serializer.h"

namespace nsa::server {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string Scrape(const PrometheusMetrics& metrics) {
  return prometheus::TextSerializer().Serialize(metrics.registry()->Collect());
}

/// "TYPE NAME" of each family, as a scraper reads them.
std::set<std::string> Families(const std::string& text) {
  std::set<std::string> families;
  size_t at = 0;
  while ((at = text.find("# TYPE ", at)) != std::string::npos) {
    at += 7;
    const std::string line = text.substr(at, text.find('\n', at) - at);
    const size_t space = line.find(' ');
    families.insert(line.substr(space + 1) + " " + line.substr(0, space));
  }
  return families;
}

engine::ModelInfo Model() {
  engine::ModelInfo info;
  info.num_pages = 48;
  info.kv_cache_dtype = "bf16";
  return info;
}

TEST(PrometheusMetricsTest, ExactlyTheNamesOnTheWire) {
  PrometheusMetrics metrics("m", DefaultBuckets(8192));
  metrics.SetModel(Model());
  const std::set<std::string> expected = {"gauge vllm:num_requests_running",
                                          "gauge vllm:num_requests_waiting",
                                          "gauge vllm:kv_cache_usage_perc",
                                          "gauge vllm:cache_config_info",
                                          "counter vllm:prompt_tokens_total",
                                          "counter vllm:generation_tokens_total",
                                          "counter vllm:prefix_cache_queries_total",
                                          "counter vllm:prefix_cache_hits_total",
                                          "counter vllm:prompt_tokens_cached_total",
                                          "counter vllm:prompt_tokens_recomputed_total",
                                          "counter vllm:spec_decode_num_accepted_tokens_total",
                                          "counter vllm:spec_decode_num_draft_tokens_total",
                                          "counter vllm:spec_decode_num_drafts_total",
                                          "counter vllm:num_preemptions_total",
                                          "counter vllm:request_success_total",
                                          "counter vllm:admission_rejections_total",
                                          "histogram vllm:time_to_first_token_seconds",
                                          "histogram vllm:inter_token_latency_seconds",
                                          "histogram vllm:request_time_per_output_token_seconds",
                                          "histogram vllm:e2e_request_latency_seconds",
                                          "histogram vllm:request_queue_time_seconds",
                                          "histogram vllm:request_prefill_time_seconds",
                                          "histogram vllm:request_decode_time_seconds",
                                          "histogram vllm:request_inference_time_seconds",
                                          "histogram vllm:request_prompt_tokens",
                                          "histogram vllm:request_generation_tokens",
                                          "histogram vllm:request_params_max_tokens",
                                          "histogram vllm:iteration_tokens_total",
                                          "counter nsa:attention_tokens_read_total",
                                          "counter nsa:attention_tokens_full_total",
                                          "counter nsa:attention_seconds_total",
                                          "counter nsa:trace_spans_total",
                                          "counter nsa:kv_spill_bytes_total",
                                          "counter nsa:kv_spill_failures_total",
                                          "counter nsa:kv_slot_misses_total",
                                          "counter nsa:kv_interrupted_rows_total",
                                          "gauge nsa:kv_slots",
                                          "counter nsa:page_selection_total",
                                          "histogram nsa:decode_step_seconds",
                                          "histogram nsa:prefill_chunk_seconds",
                                          "histogram nsa:step_batch_size",
                                          "gauge nsa:kv_pages",
                                          "gauge nsa:build_info"};
  EXPECT_EQ(Families(Scrape(metrics)), expected);
}

TEST(PrometheusMetricsTest, EverySampleNamesModelAndEngine) {
  PrometheusMetrics metrics("a \"model\"", DefaultBuckets(16));
  metrics.SetModel(Model());
  std::istringstream text(Scrape(metrics));
  for (std::string line; std::getline(text, line);) {
    if (line.starts_with('#')) continue;
    EXPECT_THAT(line, HasSubstr("engine=\"0\""));
    EXPECT_THAT(line, HasSubstr("model_name=\"a \\\"model\\\"\""));
  }
  EXPECT_THAT(text.str(), HasSubstr("vllm:cache_config_info{block_size=\"64\",cache_dtype=\"bf16\","
                                    "engine=\"0\""));
  EXPECT_THAT(text.str(), HasSubstr("num_gpu_blocks=\"48\""));
}

TEST(PrometheusMetricsTest, StepsMoveGaugesAndCounters) {
  PrometheusMetrics metrics("m", DefaultBuckets(8192));
  engine::StepStats step;
  step.num_prefill_tokens = 100;
  step.num_decode_tokens = 3;
  step.num_rows_in_batch = 4;
  step.duration = absl::Milliseconds(20);
  step.num_running = 4;
  step.num_waiting = 2;
  step.num_pages_total = 40;
  step.num_pages_active = 10;
  step.num_pages_cached = 5;
  step.attention_tokens_slc = 7;
  step.attention_tokens_full = 70;
  step.attention_times = {.cmp = absl::Milliseconds(500),
                          .slc = absl::Seconds(2),
                          .win = absl::Seconds(3),
                          .merge = absl::Seconds(4)};
  step.spills = {.num_pages_in = 2, .num_slots_in = 3};
  step.spill_page_bytes = 1000;
  step.spill_slot_bytes = 10;
  step.misses = {.num_slots = 31, .num_rows = 32};
  step.num_slots_resident = 33;
  step.drafts = {.num_drafts = 21, .num_tokens = 22, .num_accepted = 23};
  step.selected_pages[engine::PageAge(0)] = 11;
  step.selected_pages[engine::PageAge(5)] = 12;
  step.selected_pages[engine::PageAge(1'000'000)] = 13;
  metrics.OnStep(step);
  const std::string busy = Scrape(metrics);
  EXPECT_THAT(busy, HasSubstr("vllm:num_requests_running{engine=\"0\",model_name=\"m\"} 4"));
  EXPECT_THAT(busy, HasSubstr("nsa:kv_spill_bytes_total{direction=\"in\",engine=\"0\","
                              "model_name=\"m\"} 2030"));
  EXPECT_THAT(busy, HasSubstr("nsa:kv_slot_misses_total{engine=\"0\",model_name=\"m\"} 31"));
  EXPECT_THAT(busy, HasSubstr("nsa:kv_interrupted_rows_total{engine=\"0\",model_name=\"m\"} 32"));
  EXPECT_THAT(busy, HasSubstr("nsa:kv_slots{engine=\"0\",model_name=\"m\",state=\"resident\"} 33"));
  EXPECT_THAT(busy, HasSubstr("vllm:num_requests_waiting{engine=\"0\",model_name=\"m\"} 2"));
  EXPECT_THAT(busy, HasSubstr("vllm:kv_cache_usage_perc{engine=\"0\",model_name=\"m\"} 0.25"));
  EXPECT_THAT(busy, HasSubstr("model_name=\"m\",state=\"free\"} 25"));
  EXPECT_THAT(busy, HasSubstr("{branch=\"slc\",engine=\"0\",model_name=\"m\"} 7"));
  EXPECT_THAT(busy, HasSubstr("nsa:attention_tokens_full_total{engine=\"0\",model_name=\"m\"} 70"));
  for (const char* timed :
       {"cmp\",engine=\"0\",model_name=\"m\"} 0.5", "slc\",engine=\"0\",model_name=\"m\"} 2",
        "win\",engine=\"0\",model_name=\"m\"} 3", "merge\",engine=\"0\",model_name=\"m\"} 4"}) {
    EXPECT_THAT(busy, HasSubstr(absl::StrCat("nsa:attention_seconds_total{branch=\"", timed)));
  }
  for (const char* counted : {"drafts_total{engine=\"0\",model_name=\"m\"} 21",
                              "draft_tokens_total{engine=\"0\",model_name=\"m\"} 22",
                              "accepted_tokens_total{engine=\"0\",model_name=\"m\"} 23"}) {
    EXPECT_THAT(busy, HasSubstr(absl::StrCat("vllm:spec_decode_num_", counted)));
  }
  EXPECT_THAT(busy, HasSubstr("model_name=\"m\",page_age=\"0\"} 11"));
  EXPECT_THAT(busy, HasSubstr("model_name=\"m\",page_age=\"4-7\"} 12"));
  EXPECT_THAT(busy, HasSubstr("model_name=\"m\",page_age=\"16384+\"} 13"));
  EXPECT_THAT(busy,
              HasSubstr("vllm:iteration_tokens_total_sum{engine=\"0\",model_name=\"m\"} 103"));
  EXPECT_THAT(busy, HasSubstr("nsa:prefill_chunk_seconds_count{engine=\"0\",model_name=\"m\"} 1"));
  EXPECT_THAT(busy, HasSubstr("nsa:decode_step_seconds_count{engine=\"0\",model_name=\"m\"} 0"));
  // A step without tokens only says what is left.
  metrics.OnStep({});
  const std::string idle = Scrape(metrics);
  EXPECT_THAT(idle, HasSubstr("vllm:num_requests_running{engine=\"0\",model_name=\"m\"} 0"));
  EXPECT_THAT(idle,
              HasSubstr("vllm:iteration_tokens_total_count{engine=\"0\",model_name=\"m\"} 1"));
}

TEST(PrometheusMetricsTest, RequestsAreCountedHoweverTheyEnd) {
  PrometheusMetrics metrics("m", DefaultBuckets(8192));
  const auto count = [&](const std::string& name, const std::string& label) {
    const std::string text = Scrape(metrics);
    const size_t at = text.find(label, text.find("\n" + name + "{"));
    return at == std::string::npos ? -1 : std::stod(text.substr(text.find("} ", at) + 2));
  };
  for (const char* reason : {"stop", "length", "abort", "error"}) {
    EXPECT_EQ(count("vllm:request_success_total", absl::StrCat("reason=\"", reason, "\"")), 0);
    engine::RequestStats stats;
    stats.finished_reason = reason;
    stats.usage.num_prompt_tokens = 10;
    stats.usage.num_generated_tokens = 3;
    stats.usage.decode_time = absl::Seconds(1);
    metrics.OnRequestDone(stats);
    EXPECT_EQ(count("vllm:request_success_total", absl::StrCat("reason=\"", reason, "\"")), 1);
  }
  metrics.OnFirstToken(absl::Seconds(1), 40);
  metrics.OnInterToken(absl::Milliseconds(20));
  metrics.OnPreemptions({.num_sequences = 1, .num_recomputed_tokens = 640});
  metrics.OnRejected("queue_full");
  metrics.OnRejected("a new reason");
  metrics.OnSpans(SpanOutcome::kQueueFull, 5);
  EXPECT_EQ(count("nsa:trace_spans_total", "outcome=\"queue_full\""), 5);
  EXPECT_EQ(count("nsa:trace_spans_total", "outcome=\"written\""), 0);
  EXPECT_EQ(count("vllm:generation_tokens_total", "m"), 2) << "as they come, not at the end";
  EXPECT_EQ(count("vllm:prompt_tokens_total", "m"), 40) << "not of requests that were aborted";
  EXPECT_EQ(count("vllm:num_preemptions_total", "m"), 1);
  EXPECT_EQ(count("vllm:prompt_tokens_recomputed_total", "m"), 640);
  EXPECT_EQ(count("vllm:admission_rejections_total", "reason=\"queue_full\""), 1);
  EXPECT_EQ(count("vllm:admission_rejections_total", "reason=\"a new reason\""), 1);
  EXPECT_EQ(count("vllm:request_time_per_output_token_seconds_sum", "m"), 2)
      << "1 s for 2, 4 times";
}

TEST(PrometheusMetricsTest, TokenBucketsReachTheLongestContext) {
  const PrometheusMetrics::Buckets buckets = DefaultBuckets(1 << 20);
  EXPECT_GE(buckets.tokens.back(), 1 << 20);
  EXPECT_LE(buckets.seconds.front(), 0.001);
  EXPECT_GE(buckets.seconds.back(), 300);
  EXPECT_TRUE(std::is_sorted(buckets.seconds.begin(), buckets.seconds.end()));
  EXPECT_GE(DefaultBuckets(100'000).tokens.back(), 100'000);
}

TEST(PrometheusMetricsTest, BucketsFromAFlag) {
  EXPECT_THAT(*ParseBuckets("b", "0.5,1,2e3"), ElementsAre(0.5, 1, 2000));
  for (const char* bad : {"", "x", "1,", "1,1", "2,1", "0", "-1", "nan", "inf", "1;2"}) {
    const auto buckets = ParseBuckets("token_buckets", bad);
    EXPECT_EQ(buckets.status().code(), absl::StatusCode::kInvalidArgument) << bad;
    EXPECT_THAT(std::string(buckets.status().message()), HasSubstr("--token_buckets has '"));
  }
}

}  // namespace
}  // namespace nsa::server
