// nsa_server: loads one model and serves it until SIGTERM.

#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "engine/engine.h"
#include "engine/faults.h"
#include "engine/log.h"
#include "engine/thread_name.h"
#include "prometheus/exposer.h"
#include "server/command_line/address.h"
#include "server/flags.h"
#include "server/load_metrics.h"
#include "server/prometheus_metrics.h"
#include "server/security/api_key_file.h"
#include "server/security/credentials.h"
#include "server/server.h"
#include "server/tracing/trace_file.h"
#include "server/tracing/tracer.h"

namespace nsa::server {
namespace {

constexpr int kExitFailure = 1;
constexpr int kExitUsage = 2;
// After the engine has ended all requests: for clients to read what is left of their answers, and
// for the rest of the process.
constexpr absl::Duration kFlush = absl::Seconds(2);
constexpr absl::Duration kLongestEnd = absl::Seconds(10);

void ShowLoading(double part) {
  if (!isatty(STDERR_FILENO)) return;
  std::fprintf(stderr, "\rloading weights: %3.0f %%%s", part * 100, part >= 1 ? "\n" : "");
}

int Fail(const absl::Status& status) {
  std::fprintf(stderr, "nsa_server: %s\n", std::string(status.message()).c_str());
  const bool usage = absl::IsInvalidArgument(status) && status.message().find("--") == 0;
  return usage ? kExitUsage : kExitFailure;
}

/// Waits for SIGTERM or SIGINT while it keeps health in step with the engine, and the keys with
/// their file (null: none).
void WaitForSignal(const sigset_t& signals, const engine::Engine& engine, ApiKeyFile* keys,
                   Server& server) {
  bool serving = true;
  for (;;) {
    const timespec second{1, 0};
    if (sigtimedwait(&signals, nullptr, &second) > 0) return;
    if (keys != nullptr) keys->Refresh();
    if (engine.healthy() == serving) continue;
    serving = !serving;
    LOG(ERROR) << "engine is " << (serving ? "healthy again" : "not healthy");
    server.SetServing(serving);
  }
}

/// Ends the process with `code` where its orderly end hangs, as it does behind an engine that
/// hangs.
void ExitIfStuck(int code) {
  std::thread([code] {
    engine::NameThread("nsa-exit");
    absl::SleepFor(kLongestEnd);
    LOG(ERROR) << "the engine does not answer; exit";
    std::_Exit(code);
  }).detach();
}

/// NOT_SERVING, refuse, finish what runs and what clients still read; a second signal aborts it.
int Drain(const sigset_t& signals, absl::Duration timeout, engine::Engine& engine, Server& server) {
  server.SetServing(false);
  LOG(INFO) << "draining: up to " << absl::FormatDuration(timeout)
            << " for running requests; a second signal aborts them";
  const absl::Time deadline = absl::Now() + timeout;
  std::atomic<bool> drained{false};
  std::atomic<bool> aborted{false};
  std::thread second_signal([&] {
    engine::NameThread("nsa-signal");
    while (!drained) {
      const timespec tenth{0, 100'000'000};
      if (sigtimedwait(&signals, nullptr, &tenth) <= 0) continue;
      aborted = true;
      ExitIfStuck(kExitFailure);
      engine.Drain(absl::InfinitePast());
      return;
    }
  });
  engine.Drain(deadline);
  drained = true;
  second_signal.join();
  // Streams whose request has ended may still have messages to write; they have the time that is
  // left, and a moment after an abort.
  server.Shutdown(aborted ? absl::Now() + kFlush : std::max(deadline, absl::Now() + kFlush));
  ExitIfStuck(aborted ? kExitFailure : 0);
  LOG(INFO) << (aborted ? "aborted" : "drained");
  return aborted ? kExitFailure : 0;
}

/// Null: no metrics. The library's own errors are exceptions.
absl::StatusOr<std::unique_ptr<prometheus::Exposer>> ServeMetrics(const std::string& listen) {
  if (listen.empty()) return nullptr;
  const auto address = CheckAddressFree("metrics_listen", listen);
  if (!address.ok()) return address.status();
  try {
    return std::make_unique<prometheus::Exposer>(*address);
  } catch (const std::exception& error) {
    return absl::UnavailableError(
        absl::StrCat("--metrics_listen: cannot listen on ", listen, ": ", error.what()));
  }
}

/// What the variable NSA_FAULTS says; null where it is not set. A server that is not told by a flag
/// as well does not start, rather than break by an environment that was left behind.
absl::StatusOr<std::unique_ptr<engine::FaultInjector>> FaultsForTests(bool allowed) {
  const char* text = std::getenv("NSA_FAULTS");
  if (text == nullptr || *text == '\0') return nullptr;
  if (!allowed) {
    return absl::InvalidArgumentError(
        "--allow_test_faults is off and NSA_FAULTS is set: unset it, this server would break on "
        "purpose");
  }
  const auto faults = engine::FaultInjector::Parse(text);
  if (!faults.ok()) return faults.status();
  LOG(WARNING) << "faults for tests: " << text;
  return std::make_unique<engine::FaultInjector>(*faults);
}

/// Null: no keys.
absl::StatusOr<std::unique_ptr<ApiKeyFile>> OpenKeys(const std::string& path) {
  if (path.empty()) return nullptr;
  return ApiKeyFile::Open(path);
}

/// Null: no call is recorded.
absl::StatusOr<std::unique_ptr<Tracer>> OpenTracer(const ServerOptions& options,
                                                   PrometheusMetrics& metrics) {
  std::unique_ptr<TraceFile> file;
  if (!options.trace_file.empty()) {
    auto opened = TraceFile::Open({.path = options.trace_file,
                                   .max_bytes = options.trace_file_bytes,
                                   .model_name = options.served_model_name,
                                   .on_spans = [&metrics](SpanOutcome outcome, int64_t num_spans) {
                                     metrics.OnSpans(outcome, num_spans);
                                   }});
    if (!opened.ok()) return opened.status();
    file = *std::move(opened);
  }
  if (file == nullptr && !options.tracer.logs_requests) return nullptr;
  return std::make_unique<Tracer>(options.tracer, std::move(file));
}

/// Before the model is loaded.
absl::Status CheckAddresses(const ServerOptions& options) {
  const auto listen = CheckAddressFree("listen", options.listen);
  if (!listen.ok() || options.gateway_listen.empty()) return listen.status();
  return CheckAddressFree("gateway_listen", options.gateway_listen).status();
}

int Serve(const ServerOptions& options, const sigset_t& signals) {
  const auto faults = FaultsForTests(options.allow_test_faults);
  if (!faults.ok()) return Fail(faults.status());
  const auto keys = OpenKeys(options.security.api_keys_file);
  if (!keys.ok()) return Fail(keys.status());
  const auto credentials = MakeServerCredentials(options.security, keys->get(), options.listen);
  if (!credentials.ok()) return Fail(credentials.status());
  auto exposer = ServeMetrics(options.metrics_listen);
  if (!exposer.ok()) return Fail(exposer.status());
  if (const absl::Status free = CheckAddresses(options); !free.ok()) return Fail(free);
  PrometheusMetrics metrics(options.served_model_name, options.buckets);
  const auto tracer = OpenTracer(options, metrics);
  if (!tracer.ok()) return Fail(tracer.status());
  if (*exposer != nullptr) (*exposer)->RegisterCollectable(metrics.registry());
  engine::EngineOptions engine_options = options.engine;
  engine_options.metrics = &metrics;
  engine_options.faults = faults->get();
  engine_options.checks_each_step |= *faults != nullptr;
  engine_options.on_load_progress = ShowLoading;
  auto engine = engine::CreateEngine(engine_options);
  if (!engine.ok()) return Fail(engine.status());
  metrics.SetModel((*engine)->model_info());
  const auto load_metrics = std::make_shared<LoadMetrics>(engine->get(), options.served_model_name);
  const absl::Cleanup detach = [&] { load_metrics->Detach(); };  // before the engine goes
  if (*exposer != nullptr) (*exposer)->RegisterCollectable(load_metrics);
  auto server = Server::Start(engine->get(), &metrics,
                              {.listen = options.listen,
                               .credentials = *credentials,
                               .reflection = options.reflection,
                               .gateway_listen = options.gateway_listen},
                              {.served_model_name = options.served_model_name,
                               .max_message_bytes = options.max_message_bytes,
                               .max_running_requests = engine_options.max_running_requests,
                               .max_queued_requests = engine_options.max_queued_requests,
                               .tracer = tracer->get(),
                               .keys = keys->get()});
  if (!server.ok()) return Fail(server.status());
  (*server)->SetServing(true);
  if (*exposer != nullptr) {
    std::printf("metrics on port %d\n", (*exposer)->GetListeningPorts().at(0));
  }
  if (!options.gateway_listen.empty() && !IsLoopback(options.gateway_listen)) {
    LOG(WARNING) << "--gateway_listen " << options.gateway_listen
                 << " asks nobody for a key: let only the gateway reach it";
  }
  if (!(*server)->gateway_address().empty()) {
    std::printf("gateways on %s\n", (*server)->gateway_address().c_str());
  }
  std::printf("ready on %s\n", (*server)->address().c_str());
  std::fflush(stdout);
  WaitForSignal(signals, **engine, keys->get(), **server);
  return Drain(signals, options.drain_timeout, **engine, **server);
}

int Main(const std::vector<std::string>& arguments) {
  for (const std::string& argument : arguments) {
    if (argument != "--help" && argument != "-h") continue;
    std::printf("nsa_server --model=PATH [flags]: serves one model over gRPC\n%s",
                FlagHelp(ServerFlagGroups()).c_str());
    return 0;
  }
  const auto others = ParseFlags(arguments, ServerFlagGroups());
  const auto options = others.ok() ? OptionsFromFlags() : others.status();
  if (!options.ok() || !others->empty()) {
    const std::string message = options.ok()
                                    ? absl::StrCat("unexpected argument '", others->front(), "'")
                                    : std::string(options.status().message());
    std::fprintf(stderr, "nsa_server: %s\n", message.c_str());
    return kExitUsage;
  }
  if (options->json_log) log::SetFormat(log::Format::kJson);
  // Before any thread starts, so that all inherit the mask and the signals wait for sigtimedwait.
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  return Serve(*options, signals);
}

}  // namespace
}  // namespace nsa::server

int main(int argc, char** argv) {
  return nsa::server::Main(std::vector<std::string>(argv + 1, argv + argc));
}
