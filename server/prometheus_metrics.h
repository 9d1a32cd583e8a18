#ifndef NSA_SERVER_PROMETHEUS_METRICS_H_
#define NSA_SERVER_PROMETHEUS_METRICS_H_

#include <map>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "engine/engine.h"
#include "engine/metrics.h"
#include "prometheus/counter.h"
#include "prometheus/gauge.h"
#include "prometheus/histogram.h"
#include "prometheus/registry.h"
#include "server/tracing/span_outcome.h"

namespace nsa::server {

/// What the engine reports, as Prometheus metrics under the names of serving.md §2 (vLLM's, which
/// routers and dashboards read, and ours). Thread-safe.
class PrometheusMetrics final : public engine::MetricsObserver {
 public:
  struct Buckets {
    prometheus::Histogram::BucketBoundaries seconds;
    prometheus::Histogram::BucketBoundaries tokens;
  };

  PrometheusMetrics(std::string model_name, const Buckets& buckets);

  /// Sizes known after loading.
  void SetModel(const engine::ModelInfo& info);

  std::shared_ptr<prometheus::Registry> registry() const { return registry_; }

  void OnStep(const engine::StepStats& stats) override;
  void OnFirstToken(absl::Duration since_arrival, int64_t num_prompt_tokens) override;
  void OnInterToken(absl::Duration gap) override;
  void OnRequestDone(const engine::RequestStats& stats) override;
  void OnPreemptions(const engine::Preemptions& preemptions) override;
  void OnRejected(std::string_view reason) override;

  /// Spans that were written to the trace file, or not.
  void OnSpans(SpanOutcome outcome, int64_t num_spans);

 private:
  using Labels = std::map<std::string, std::string>;
  Labels With(const Labels& more) const;
  prometheus::Gauge& AddGauge(const char* name, const char* help, const Labels& labels = {});
  prometheus::Counter& AddCounter(const char* name, const char* help, const Labels& labels = {});
  prometheus::Counter& AddAttentionTime(const char* branch);
  prometheus::Counter& Ended(std::string_view reason);
  prometheus::Counter& Rejected(std::string_view reason);
  prometheus::Histogram& AddHistogram(const char* name, const char* help,
                                      const prometheus::Histogram::BucketBoundaries& buckets);

  const std::string model_name_;
  std::shared_ptr<prometheus::Registry> registry_ = std::make_shared<prometheus::Registry>();

  prometheus::Gauge& running_;
  prometheus::Gauge& waiting_;
  prometheus::Gauge& cache_usage_;
  prometheus::Gauge& pages_free_;
  prometheus::Gauge& pages_active_;
  prometheus::Gauge& pages_cached_;
  prometheus::Gauge& pages_spilled_;
  prometheus::Counter& spill_bytes_out_;
  prometheus::Counter& spill_bytes_in_;
  prometheus::Counter& spill_failures_out_;
  prometheus::Counter& spill_failures_in_;
  prometheus::Gauge& slots_resident_;
  prometheus::Counter& slot_misses_;
  prometheus::Counter& interrupted_rows_;
  prometheus::Counter& prompt_tokens_;
  prometheus::Counter& generation_tokens_;
  prometheus::Counter& prompt_tokens_cached_;
  prometheus::Counter& drafts_;
  prometheus::Counter& draft_tokens_;
  prometheus::Counter& accepted_tokens_;
  prometheus::Counter& prompt_tokens_recomputed_;
  prometheus::Counter& prefix_queries_;
  prometheus::Counter& prefix_hits_;
  prometheus::Counter& preemptions_;
  prometheus::Counter& read_cmp_;
  prometheus::Counter& read_slc_;
  prometheus::Counter& read_win_;
  prometheus::Counter& read_full_;
  std::vector<prometheus::Counter*> selected_pages_;  // [kNumPageAges]
  prometheus::Counter& time_cmp_;
  prometheus::Counter& time_slc_;
  prometheus::Counter& time_win_;
  prometheus::Counter& time_merge_;
  std::vector<prometheus::Counter*> spans_;  // by SpanOutcome
  prometheus::Histogram& first_token_;
  prometheus::Histogram& inter_token_;
  prometheus::Histogram& time_per_output_token_;
  prometheus::Histogram& e2e_;
  prometheus::Histogram& queue_time_;
  prometheus::Histogram& prefill_time_;
  prometheus::Histogram& decode_time_;
  prometheus::Histogram& inference_time_;
  prometheus::Histogram& request_prompt_tokens_;
  prometheus::Histogram& request_generation_tokens_;
  prometheus::Histogram& request_max_tokens_;
  prometheus::Histogram& iteration_tokens_;
  prometheus::Histogram& decode_step_;
  prometheus::Histogram& prefill_chunk_;
  prometheus::Histogram& batch_size_;
};

/// Boundaries for latencies in seconds, and for token counts up to `longest`.
PrometheusMetrics::Buckets DefaultBuckets(int64_t longest);

/// Boundaries from a flag: numbers above 0, ascending, separated by commas. InvalidArgument names
/// the flag and the number that is wrong.
absl::StatusOr<prometheus::Histogram::BucketBoundaries> ParseBuckets(const std::string& flag,
                                                                     const std::string& text);

}  // namespace nsa::server

#endif  // NSA_SERVER_PROMETHEUS_METRICS_H_
