#ifndef NSA_SERVER_INTAKE_H_
#define NSA_SERVER_INTAKE_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <string>

#include "absl/time/time.h"
#include "engine/engine.h"
#include "server/generate_call.h"
#include "server/work_pool.h"

namespace nsa::server {

/// What services tell of the server.
struct ServiceInfo {
  std::string served_model_name;
  int64_t max_message_bytes = 0;
  int32_t max_running_requests = 0;
  int32_t max_queued_requests = 0;
  // Not told. These outlive the services.
  const Tracer* tracer = nullptr;    // null: no call is recorded
  const ApiKeyFile* keys = nullptr;  // null: there are none
};

/// Where all services hand in their work, so that they share one queue, one name space of requests
/// and one set of limits: a few threads that tokenize, and one that compiles grammars. Any thread.
class Intake {
 public:
  /// `engine` and `metrics` (may be null) outlive it and the servers whose calls it gets.
  Intake(engine::Engine* engine, engine::MetricsObserver* metrics, ServiceInfo info);

  engine::Engine& engine() { return *engine_; }
  const ServiceInfo& info() const { return info_; }
  absl::Duration uptime() const;
  /// Whether the server takes requests, by its own will and by the engine's health.
  bool serving() const { return serving_ && engine_->healthy(); }
  void set_serving(bool serving) { serving_ = serving; }

  GenerateCall::Shared* shared() { return &shared_; }
  /// The client's own id, or a new one where that is empty.
  std::string IdFor(const std::string& wanted);
  /// Admits the call and queues it to be tokenized, or ends it.
  void Run(GenerateCall* call);
  /// Other work that takes longer than gRPC's threads should; false: the queue is full.
  bool Add(std::function<void()> work) { return work_.Add(std::move(work)); }
  absl::Status QueueFull() const;
  /// Idempotent; unknown ids are no error.
  void Abort(const std::string& request_id);

 private:
  engine::Engine* const engine_;
  engine::MetricsObserver no_metrics_;
  GenerateCall::Shared shared_;
  const ServiceInfo info_;
  const absl::Time started_;
  const uint64_t id_prefix_;
  std::atomic<uint64_t> next_id_{0};
  std::atomic<bool> serving_{false};
  WorkPool work_;
  WorkPool grammar_work_;  // requests whose grammars may take seconds to compile
};

}  // namespace nsa::server

#endif  // NSA_SERVER_INTAKE_H_
