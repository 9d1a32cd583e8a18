#ifndef NSA_SERVER_LOAD_METRICS_H_
#define NSA_SERVER_LOAD_METRICS_H_

#include <mutex>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "prometheus/collectable.h"
#include "prometheus/metric_family.h"

namespace nsa::server {

/// What is asked of the engine when somebody scrapes, rather than told by its steps: so it is right
/// while a step hangs. Any thread.
class LoadMetrics final : public prometheus::Collectable {
 public:
  LoadMetrics(const engine::Engine* engine, std::string model_name)
      : engine_(engine), model_name_(std::move(model_name)) {}

  /// The engine goes; there is nothing to tell any more. Waits for a scrape that asks it.
  void Detach();

  std::vector<prometheus::MetricFamily> Collect() const override;

 private:
  mutable std::mutex mutex_;
  const engine::Engine* engine_;  // null: gone
  const std::string model_name_;
};

}  // namespace nsa::server

#endif  // NSA_SERVER_LOAD_METRICS_H_
