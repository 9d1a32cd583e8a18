#ifndef NSA_SERVER_SERVER_H_
#define NSA_SERVER_SERVER_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "engine/engine.h"
#include "grpcpp/security/server_credentials.h"
#include "grpcpp/server.h"
#include "server/inference_service.h"
#include "server/vllm/vllm_service.h"

namespace nsa::server {

/// The one port: where it is, how it answers and who is let in; and the other one, for gateways
/// that know neither TLS nor keys.
struct PortOptions {
  std::string listen;  // HOST:PORT; port 0: a free one
  std::shared_ptr<grpc::ServerCredentials> credentials = grpc::InsecureServerCredentials();
  bool reflection = true;        // tell what services there are
  std::string gateway_listen{};  // VllmEngine and health alone, for anybody; empty: none
};

/// The gRPC server: InferenceService, VllmService, health and reflection on one port.
class Server {
 public:
  /// Binds the port. InvalidArgument or AlreadyExists where that cannot be had. `engine` outlives
  /// the server. Not serving until SetServing(true).
  static absl::StatusOr<std::unique_ptr<Server>> Start(engine::Engine* engine,
                                                       engine::MetricsObserver* metrics,
                                                       const PortOptions& port,
                                                       const ServiceInfo& info);
  ~Server();  // Shutdown at once

  /// Takes no more calls, lets those that run end until `deadline`, then cancels them. Blocks until
  /// none is left, so call it after Engine::Drain.
  void Shutdown(absl::Time deadline);

  /// What grpc.health.v1 answers for "" and for each service, and VllmEngine's HealthCheck.
  void SetServing(bool serving);
  const std::string& address() const { return address_; }                  // HOST:PORT as bound
  const std::string& gateway_address() const { return gateway_address_; }  // likewise; or empty

 private:
  Server(engine::Engine* engine, engine::MetricsObserver* metrics, const ServiceInfo& info)
      : intake_(engine, metrics, info), tokenizer_(engine) {}
  absl::Status StartMain(const PortOptions& port);
  absl::Status StartForGateways(const PortOptions& port);

  Intake intake_;
  TokenizerBundle tokenizer_;
  InferenceService service_{&intake_};
  // A service belongs to one server.
  VllmService vllm_service_{&intake_, &tokenizer_};
  VllmService gateway_service_{&intake_, &tokenizer_};
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<grpc::Server> gateway_server_;  // null: none
  std::string address_;
  std::string gateway_address_;
  bool shut_down_ = false;
};

/// HOST:PORT as numbers, for libraries that know no names. Asked before a model is loaded for
/// minutes: InvalidArgument names the flag where it is no address, another code says why it cannot
/// be bound.
absl::StatusOr<std::string> CheckAddressFree(const std::string& flag, const std::string& address);

}  // namespace nsa::server

#endif  // NSA_SERVER_SERVER_H_
