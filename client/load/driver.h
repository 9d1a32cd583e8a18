#ifndef NSA_CLIENT_LOAD_DRIVER_H_
#define NSA_CLIENT_LOAD_DRIVER_H_

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <queue>
#include <vector>

#include "client/load/prompt_maker.h"
#include "client/load/request.h"
#include "client/load/statistics.h"
#include "grpcpp/client_context.h"
#include "nsa/v1/inference.grpc.pb.h"

namespace nsa::client {

/// Sends requests at their times and tells what became of each. Requests run on gRPC's threads, by
/// its callbacks: thousands may be in flight, and a server that is slow delays no later arrival.
class Driver {
 public:
  using Clock = std::chrono::steady_clock;
  /// The next request; none: the phase ends when those in flight have.
  using Source = std::function<std::optional<PlannedRequest>()>;

  struct Options {
    /// Requests go to these in turn, each with a connection of its own. At least one.
    std::vector<v1::InferenceService::Stub*> stubs;
    /// What all requests have in common: sampling, attention.
    v1::GenerateRequest common;
    const PromptMaker* prompts = nullptr;
    /// Called once a request, one at a time, on threads of gRPC; returns soon.
    std::function<void(RequestRecord)> on_done;
  };

  struct Phase {
    /// Closed loop: so many users, each of whom sends when the last one was answered (after a pause
    /// where it failed). None: open loop, each request at its planned arrival.
    std::optional<int64_t> concurrency = {};
    /// No request begins after this.
    double duration_s = std::numeric_limits<double>::infinity();
  };

  /// At this moment, over all phases.
  struct Progress {
    int64_t num_sent = 0;
    int64_t num_in_flight = 0;
  };

  explicit Driver(Options options);
  ~Driver();
  Driver(const Driver&) = delete;
  Driver& operator=(const Driver&) = delete;

  /// Sends what `source` gives until it ends, the duration has passed or Stop is called, and
  /// returns when no request is in flight. Not from two threads at a time.
  void Run(const Source& source, const Phase& phase);

  /// Cancels what is in flight and sends nothing more, in later phases neither. From any thread.
  void Stop();

  Progress progress() const;

 private:
  class Call;

  v1::GenerateRequest Message(const PlannedRequest& planned) const;
  /// Waits until the request may go; false where it must not. Sets its scheduled arrival.
  bool AwaitTurn(const Phase& phase, const PlannedRequest& planned, double& scheduled_s);
  void Send(const PlannedRequest& planned, double scheduled_s, v1::GenerateRequest message);
  void OnCallDone(int64_t id, RequestRecord record);
  double Now() const;  // seconds since the phase began
  Clock::time_point At(double seconds) const;

  const Options options_;
  Clock::time_point origin_;  // of the phase; read by calls, written when there are none

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  bool stopped_ = false;
  Progress progress_;
  // By order of sending. Shared, so that Stop may cancel what ends meanwhile.
  std::map<int64_t, std::shared_ptr<grpc::ClientContext>> active_;
  bool closed_loop_ = false;
  // Closed loop: when each user who waits may send again.
  std::priority_queue<double, std::vector<double>, std::greater<>> free_users_;
  size_t next_stub_ = 0;
};

}  // namespace nsa::client

#endif  // NSA_CLIENT_LOAD_DRIVER_H_
