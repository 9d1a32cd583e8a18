#include "server/load_metrics.h"

#include <algorithm>

#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace nsa::server {

void LoadMetrics::Detach() {
  const std::lock_guard<std::mutex> lock(mutex_);
  engine_ = nullptr;
}

std::vector<prometheus::MetricFamily> LoadMetrics::Collect() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (engine_ == nullptr) return {};
  const absl::Time oldest = engine_->load().oldest_arrival;
  const absl::Duration age = std::max(absl::Now() - oldest, absl::ZeroDuration());
  prometheus::MetricFamily family;
  family.name = "nsa:oldest_waiting_request_age_seconds";
  family.help = "How long the request that came first waits for its first step; 0: none waits.";
  family.type = prometheus::MetricType::Gauge;
  prometheus::ClientMetric& metric = family.metric.emplace_back();
  metric.label = {{.name = "model_name", .value = model_name_}, {.name = "engine", .value = "0"}};
  metric.gauge.value = absl::ToDoubleSeconds(age);
  return {family};
}

}  // namespace nsa::server
