#ifndef NSA_SERVER_FLAGS_H_
#define NSA_SERVER_FLAGS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "engine/engine.h"
#include "server/command_line/command_line.h"
#include "server/prometheus_metrics.h"
#include "server/security/credentials.h"
#include "server/tracing/tracer.h"

namespace nsa::server {

/// Everything that the command line says, checked.
struct ServerOptions {
  engine::EngineOptions engine;
  std::string listen;
  std::string metrics_listen;  // empty: no metrics
  std::string gateway_listen;  // empty: none
  SecurityOptions security;
  bool reflection = true;
  std::string served_model_name;  // never empty
  PrometheusMetrics::Buckets buckets;
  int64_t max_message_bytes = 0;
  absl::Duration drain_timeout;
  Tracer::Options tracer;
  std::string trace_file;        // empty: none
  int64_t trace_file_bytes = 0;  // 0: no limit
  bool json_log = false;
  bool allow_test_faults = false;
};

const std::vector<FlagGroup>& ServerFlagGroups();

/// Reads the flags once. InvalidArgument names the flag, the value and the range.
absl::StatusOr<ServerOptions> OptionsFromFlags();

}  // namespace nsa::server

#endif  // NSA_SERVER_FLAGS_H_
