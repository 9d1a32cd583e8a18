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

namespace nsa::server {

/// The one port: where it is, how it answers and who is let in.
struct PortOptions {
  std::string listen;  // HOST:PORT; port 0: a free one
  std::shared_ptr<grpc::ServerCredentials> credentials = grpc::InsecureServerCredentials();
  bool reflection = true;  // tell what services there are
};

/// The gRPC server: InferenceService, health and reflection on one port.
class Server {
 public:
  /// Binds the port. InvalidArgument or AlreadyExists where that cannot be had. `engine` outlives
  /// the server. Not serving until SetServing(true).
  static absl::StatusOr<std::unique_ptr<Server>> Start(engine::Engine* engine,
                                                       engine::MetricsObserver* metrics,
                                                       const PortOptions& port,
                                                       const InferenceService::Info& info);
  ~Server();  // Shutdown at once

  /// Takes no more calls, lets those that run end until `deadline`, then cancels them. Blocks until
  /// none is left, so call it after Engine::Drain.
  void Shutdown(absl::Time deadline);

  /// What grpc.health.v1 answers for "" and for nsa.v1.InferenceService.
  void SetServing(bool serving);
  const std::string& address() const { return address_; }  // HOST:PORT as bound

 private:
  Server() = default;

  std::unique_ptr<InferenceService> service_;
  std::unique_ptr<grpc::Server> server_;
  std::string address_;
  bool shut_down_ = false;
};

/// HOST:PORT as numbers, for libraries that know no names. Asked before a model is loaded for
/// minutes: InvalidArgument names the flag where it is no address, another code says why it cannot
/// be bound.
absl::StatusOr<std::string> CheckAddressFree(const std::string& flag, const std::string& address);

}  // namespace nsa::server

#endif  // NSA_SERVER_SERVER_H_
