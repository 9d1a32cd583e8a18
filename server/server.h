#ifndef NSA_SERVER_SERVER_H_
#define NSA_SERVER_SERVER_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "engine/engine.h"
#include "grpcpp/server.h"
#include "server/inference_service.h"

namespace nsa::server {

/// The gRPC server: InferenceService, health and reflection on one port.
class Server {
 public:
  /// Binds `listen` (HOST:PORT; port 0: a free one). InvalidArgument or AlreadyExists where that
  /// cannot be had. `engine` outlives the server. Not serving until SetServing(true).
  static absl::StatusOr<std::unique_ptr<Server>> Start(engine::Engine* engine,
                                                       const std::string& listen,
                                                       const InferenceService::Info& info);
  ~Server();  // ends open calls

  /// What grpc.health.v1 answers for "" and for nsa.v1.InferenceService.
  void SetServing(bool serving);
  const std::string& address() const { return address_; }  // HOST:PORT as bound

 private:
  Server() = default;

  std::unique_ptr<InferenceService> service_;
  std::unique_ptr<grpc::Server> server_;
  std::string address_;
};

/// Ok where HOST:PORT can be bound now. Asked before a model is loaded for minutes.
absl::Status CheckAddressFree(const std::string& flag, const std::string& address);

}  // namespace nsa::server

#endif  // NSA_SERVER_SERVER_H_
