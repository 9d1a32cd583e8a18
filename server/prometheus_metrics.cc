#include "server/prometheus_metrics.h"

#include <cmath>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "server/version.h"

namespace nsa::server {
namespace {

constexpr int kPageTokens = 64;
constexpr const char* kFinishedReasons[] = {"stop", "length", "abort", "error"};
constexpr const char* kRejectionReasons[] = {"queue_full", "first_token_goal", "invalid_argument",
                                             "unavailable"};

double Seconds(absl::Duration duration) { return absl::ToDoubleSeconds(duration); }

/// "0", "1", "2-3", "4-7", …, "16384+": pages between a query and what it selected.
std::string PageAgeLabel(int age) {
  if (age < 2) return std::to_string(age);
  const int64_t first = int64_t{1} << (age - 1);
  if (age == engine::kNumPageAges - 1) return absl::StrCat(first, "+");
  return absl::StrCat(first, "-", 2 * first - 1);
}

const prometheus::Histogram::BucketBoundaries& BatchBuckets() {
  static const auto* const buckets =
      new prometheus::Histogram::BucketBoundaries{1, 2, 4, 8, 16, 32, 64, 128, 256};
  return *buckets;
}

}  // namespace

PrometheusMetrics::Labels PrometheusMetrics::With(const Labels& more) const {
  Labels labels = {{"model_name", model_name_}, {"engine", "0"}};
  labels.insert(more.begin(), more.end());
  return labels;
}

prometheus::Gauge& PrometheusMetrics::AddGauge(const char* name, const char* help,
                                               const Labels& labels) {
  return prometheus::BuildGauge().Name(name).Help(help).Register(*registry_).Add(With(labels));
}

prometheus::Counter& PrometheusMetrics::AddCounter(const char* name, const char* help,
                                                   const Labels& labels) {
  return prometheus::BuildCounter().Name(name).Help(help).Register(*registry_).Add(With(labels));
}

prometheus::Histogram& PrometheusMetrics::AddHistogram(
    const char* name, const char* help, const prometheus::Histogram::BucketBoundaries& buckets) {
  return prometheus::BuildHistogram()
      .Name(name)
      .Help(help)
      .Register(*registry_)
      .Add(With({}), buckets);
}

prometheus::Counter& PrometheusMetrics::AddAttentionTime(const char* branch) {
  return AddCounter("nsa:attention_seconds_total",
                    "Time that attention took, by branch; not measured on a GPU.",
                    {{"branch", branch}});
}

PrometheusMetrics::PrometheusMetrics(std::string model_name, const Buckets& b)
    : model_name_(std::move(model_name)),
      running_(AddGauge("vllm:num_requests_running", "Requests in the running batch.")),
      waiting_(AddGauge("vllm:num_requests_waiting", "Accepted requests that wait.")),
      cache_usage_(AddGauge("vllm:kv_cache_usage_perc", "Share of KV cache pages in use, 0 to 1.")),
      pages_free_(AddGauge("nsa:kv_pages", "KV cache pages by state.", {{"state", "free"}})),
      pages_active_(AddGauge("nsa:kv_pages", "KV cache pages by state.", {{"state", "active"}})),
      pages_cached_(AddGauge("nsa:kv_pages", "KV cache pages by state.", {{"state", "cached"}})),
      pages_spilled_(AddGauge("nsa:kv_pages", "KV cache pages by state.", {{"state", "spilled"}})),
      spill_bytes_out_(AddCounter("nsa:kv_spill_bytes_total",
                                  "K and V moved to and from the spill tier.",
                                  {{"direction", "out"}})),
      spill_bytes_in_(AddCounter("nsa:kv_spill_bytes_total",
                                 "K and V moved to and from the spill tier.",
                                 {{"direction", "in"}})),
      spill_failures_out_(AddCounter("nsa:kv_spill_failures_total",
                                     "Pages that could not be moved.", {{"direction", "out"}})),
      spill_failures_in_(AddCounter("nsa:kv_spill_failures_total", "Pages that could not be moved.",
                                    {{"direction", "in"}})),
      slots_resident_(AddGauge("nsa:kv_slots",
                               "Slots (K and V of a page in one layer) of pages in the spill tier.",
                               {{"state", "resident"}})),
      slot_misses_(AddCounter("nsa:kv_slot_misses_total",
                              "Slots that attention selected and did not find in memory.")),
      interrupted_rows_(
          AddCounter("nsa:kv_interrupted_rows_total", "Rows that left a step to wait for slots.")),
      prompt_tokens_(AddCounter("vllm:prompt_tokens_total",
                                "Prompt tokens, of a request at once when its first token comes.")),
      generation_tokens_(
          AddCounter("vllm:generation_tokens_total", "Generated tokens, as they come.")),
      prompt_tokens_cached_(
          AddCounter("vllm:prompt_tokens_cached_total", "Prompt tokens found in the cache.")),
      drafts_(AddCounter("vllm:spec_decode_num_drafts_total", "Drafts verified.")),
      draft_tokens_(AddCounter("vllm:spec_decode_num_draft_tokens_total", "Tokens drafted.")),
      accepted_tokens_(AddCounter("vllm:spec_decode_num_accepted_tokens_total",
                                  "Drafted tokens that were right.")),
      prompt_tokens_recomputed_(AddCounter("vllm:prompt_tokens_recomputed_total",
                                           "Tokens computed again after a preemption.")),
      prefix_queries_(
          AddCounter("vllm:prefix_cache_queries_total", "Tokens looked up in the prefix cache.")),
      prefix_hits_(AddCounter("vllm:prefix_cache_hits_total", "Tokens found in the prefix cache.")),
      preemptions_(AddCounter("vllm:num_preemptions_total", "Sequences preempted.")),
      read_cmp_(AddCounter("nsa:attention_tokens_read_total",
                           "Rows that attention read, by branch.", {{"branch", "cmp"}})),
      read_slc_(AddCounter("nsa:attention_tokens_read_total",
                           "Rows that attention read, by branch.", {{"branch", "slc"}})),
      read_win_(AddCounter("nsa:attention_tokens_read_total",
                           "Rows that attention read, by branch.", {{"branch", "win"}})),
      read_full_(AddCounter("nsa:attention_tokens_full_total",
                            "Tokens that full attention would have read.")),
      time_cmp_(AddAttentionTime("cmp")),
      time_slc_(AddAttentionTime("slc")),
      time_win_(AddAttentionTime("win")),
      time_merge_(AddAttentionTime("merge")),
      first_token_(
          AddHistogram("vllm:time_to_first_token_seconds", "Arrival to first token.", b.seconds)),
      inter_token_(
          AddHistogram("vllm:inter_token_latency_seconds", "Token to next token.", b.seconds)),
      time_per_output_token_(AddHistogram("vllm:request_time_per_output_token_seconds",
                                          "Mean time per generated token of a request.",
                                          b.seconds)),
      e2e_(AddHistogram("vllm:e2e_request_latency_seconds", "Arrival to end.", b.seconds)),
      queue_time_(
          AddHistogram("vllm:request_queue_time_seconds", "Waiting to be scheduled.", b.seconds)),
      prefill_time_(AddHistogram("vllm:request_prefill_time_seconds", "Scheduled to first token.",
                                 b.seconds)),
      decode_time_(
          AddHistogram("vllm:request_decode_time_seconds", "First token to end.", b.seconds)),
      inference_time_(
          AddHistogram("vllm:request_inference_time_seconds", "Scheduled to end.", b.seconds)),
      request_prompt_tokens_(
          AddHistogram("vllm:request_prompt_tokens", "Prompt tokens of a request.", b.tokens)),
      request_generation_tokens_(AddHistogram("vllm:request_generation_tokens",
                                              "Generated tokens of a request.", b.tokens)),
      request_max_tokens_(AddHistogram("vllm:request_params_max_tokens",
                                       "max_tokens in force for a request.", b.tokens)),
      iteration_tokens_(AddHistogram("vllm:iteration_tokens_total", "Tokens in a step.", b.tokens)),
      decode_step_(
          AddHistogram("nsa:decode_step_seconds", "Steps without prompt tokens.", b.seconds)),
      prefill_chunk_(
          AddHistogram("nsa:prefill_chunk_seconds", "Steps with prompt tokens.", b.seconds)),
      batch_size_(AddHistogram("nsa:step_batch_size", "Sequences in a step.", BatchBuckets())) {
  AddGauge("nsa:build_info", "Build of the server; always 1.", {{"version", kVersion}}).Set(1);
  for (int age = 0; age < engine::kNumPageAges; ++age) {
    selected_pages_.push_back(&AddCounter("nsa:page_selection_total",
                                          "Pages selected, by their distance from the query.",
                                          {{"page_age", PageAgeLabel(age)}}));
  }
  for (const std::string_view outcome : kSpanOutcomes) {
    spans_.push_back(&AddCounter("nsa:trace_spans_total",
                                 "Spans of --trace_file, and what became of them.",
                                 {{"outcome", std::string(outcome)}}));
  }
  // A rate needs the zero from which a counter starts.
  for (const char* reason : kFinishedReasons) Ended(reason);
  for (const char* reason : kRejectionReasons) Rejected(reason);
}

void PrometheusMetrics::SetModel(const engine::ModelInfo& info) {
  AddGauge("vllm:cache_config_info", "KV cache configuration; always 1.",
           {{"block_size", std::to_string(kPageTokens)},
            {"num_gpu_blocks", std::to_string(info.num_pages)},
            {"cache_dtype", info.kv_cache_dtype}})
      .Set(1);
  pages_free_.Set(static_cast<double>(info.num_pages));
}

void PrometheusMetrics::OnStep(const engine::StepStats& stats) {
  running_.Set(stats.num_running);
  waiting_.Set(stats.num_waiting);
  const auto total = static_cast<double>(stats.num_pages_total);
  const auto active = static_cast<double>(stats.num_pages_active);
  const auto cached = static_cast<double>(stats.num_pages_cached);
  cache_usage_.Set(total > 0 ? active / total : 0);
  pages_active_.Set(active);
  pages_cached_.Set(cached);
  pages_free_.Set(total - active - cached);
  pages_spilled_.Set(static_cast<double>(stats.num_pages_spilled));
  const auto page_bytes = static_cast<double>(stats.spill_page_bytes);
  spill_bytes_out_.Increment(static_cast<double>(stats.spills.num_pages_out) * page_bytes);
  spill_bytes_in_.Increment(static_cast<double>(stats.spills.num_pages_in) * page_bytes +
                            static_cast<double>(stats.spills.num_slots_in) *
                                static_cast<double>(stats.spill_slot_bytes));
  spill_failures_out_.Increment(static_cast<double>(stats.spills.num_failed_writes));
  spill_failures_in_.Increment(static_cast<double>(stats.spills.num_failed_reads));
  slots_resident_.Set(static_cast<double>(stats.num_slots_resident));
  slot_misses_.Increment(static_cast<double>(stats.misses.num_slots));
  interrupted_rows_.Increment(static_cast<double>(stats.misses.num_rows));
  prefix_queries_.Increment(static_cast<double>(stats.prefixes.num_tokens));
  prefix_hits_.Increment(static_cast<double>(stats.prefixes.num_found));
  const int64_t tokens = stats.num_prefill_tokens + stats.num_decode_tokens;
  if (tokens == 0) return;
  iteration_tokens_.Observe(static_cast<double>(tokens));
  batch_size_.Observe(stats.num_rows_in_batch);
  (stats.num_prefill_tokens > 0 ? prefill_chunk_ : decode_step_).Observe(Seconds(stats.duration));
  drafts_.Increment(static_cast<double>(stats.drafts.num_drafts));
  draft_tokens_.Increment(static_cast<double>(stats.drafts.num_tokens));
  accepted_tokens_.Increment(static_cast<double>(stats.drafts.num_accepted));
  read_cmp_.Increment(static_cast<double>(stats.attention_tokens_cmp));
  read_slc_.Increment(static_cast<double>(stats.attention_tokens_slc));
  read_win_.Increment(static_cast<double>(stats.attention_tokens_win));
  read_full_.Increment(static_cast<double>(stats.attention_tokens_full));
  time_cmp_.Increment(Seconds(stats.attention_times.cmp));
  time_slc_.Increment(Seconds(stats.attention_times.slc));
  time_win_.Increment(Seconds(stats.attention_times.win));
  time_merge_.Increment(Seconds(stats.attention_times.merge));
  for (size_t age = 0; age < selected_pages_.size(); ++age) {
    selected_pages_[age]->Increment(static_cast<double>(stats.selected_pages[age]));
  }
}

void PrometheusMetrics::OnFirstToken(absl::Duration since_arrival, int64_t num_prompt_tokens) {
  prompt_tokens_.Increment(static_cast<double>(num_prompt_tokens));
  first_token_.Observe(Seconds(since_arrival));
  generation_tokens_.Increment();
}

void PrometheusMetrics::OnInterToken(absl::Duration gap) {
  inter_token_.Observe(Seconds(gap));
  generation_tokens_.Increment();
}

prometheus::Counter& PrometheusMetrics::Ended(std::string_view reason) {
  return AddCounter("vllm:request_success_total", "Ended requests by reason.",
                    {{"finished_reason", std::string(reason)}});
}

prometheus::Counter& PrometheusMetrics::Rejected(std::string_view reason) {
  return AddCounter("vllm:admission_rejections_total",
                    "Requests refused before they were accepted.",
                    {{"reason", std::string(reason)}});
}

void PrometheusMetrics::OnRequestDone(const engine::RequestStats& stats) {
  const engine::Usage& usage = stats.usage;
  Ended(stats.finished_reason).Increment();
  prompt_tokens_cached_.Increment(static_cast<double>(usage.num_cached_tokens));
  e2e_.Observe(Seconds(stats.e2e_latency));
  queue_time_.Observe(Seconds(usage.queue_time));
  prefill_time_.Observe(Seconds(usage.prefill_time));
  decode_time_.Observe(Seconds(usage.decode_time));
  inference_time_.Observe(Seconds(usage.prefill_time + usage.decode_time));
  request_prompt_tokens_.Observe(static_cast<double>(usage.num_prompt_tokens));
  request_generation_tokens_.Observe(static_cast<double>(usage.num_generated_tokens));
  request_max_tokens_.Observe(static_cast<double>(stats.max_tokens));
  if (usage.num_generated_tokens > 1) {
    time_per_output_token_.Observe(Seconds(usage.decode_time) /
                                   static_cast<double>(usage.num_generated_tokens - 1));
  }
}

void PrometheusMetrics::OnPreemptions(const engine::Preemptions& preemptions) {
  preemptions_.Increment(static_cast<double>(preemptions.num_sequences));
  prompt_tokens_recomputed_.Increment(static_cast<double>(preemptions.num_recomputed_tokens));
}

void PrometheusMetrics::OnRejected(std::string_view reason) { Rejected(reason).Increment(); }

void PrometheusMetrics::OnSpans(SpanOutcome outcome, int64_t num_spans) {
  spans_[static_cast<size_t>(outcome)]->Increment(static_cast<double>(num_spans));
}

PrometheusMetrics::Buckets DefaultBuckets(int64_t longest) {
  PrometheusMetrics::Buckets buckets;
  for (double power = 0.001; power < 1000; power *= 10) {
    for (const double step : {1.0, 2.5, 5.0}) buckets.seconds.push_back(power * step);
  }
  for (int64_t tokens = 1; tokens < 2 * longest; tokens *= 2) {
    buckets.tokens.push_back(static_cast<double>(tokens));
  }
  return buckets;
}

absl::StatusOr<prometheus::Histogram::BucketBoundaries> ParseBuckets(const std::string& flag,
                                                                     const std::string& text) {
  prometheus::Histogram::BucketBoundaries buckets;
  for (const absl::string_view word : absl::StrSplit(text, ',')) {
    double value = 0;
    const bool number = absl::SimpleAtod(word, &value) && std::isfinite(value) && value > 0;
    if (!number || (!buckets.empty() && value <= buckets.back())) {
      return absl::InvalidArgumentError(
          absl::StrCat("--", flag, " has '", word, "', expected ascending numbers above 0"));
    }
    buckets.push_back(value);
  }
  return buckets;
}

}  // namespace nsa::server
