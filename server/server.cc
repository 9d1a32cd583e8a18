#include "server/server.h"

#include <netdb.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <thread>
#include <utility>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "absl/memory/memory.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "grpcpp/ext/proto_server_reflection_plugin.h"
#include "grpcpp/grpcpp.h"
#include "grpcpp/health_check_service_interface.h"
#include "grpcpp/impl/server_builder_option.h"
#include "grpcpp/impl/server_builder_plugin.h"
#include "server/command_line/address.h"

namespace nsa::server {
namespace {

/// A client whose machine is gone sends no goodbye: it is asked now and then, and its calls end
/// where it does not answer. Clients may ask as often themselves.
void SetKeepalive(grpc::ServerBuilder& builder) {
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, 30'000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 10'000);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 10'000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
}

/// Binds `listen` and writes it to `address` with the port that it has.
absl::StatusOr<std::unique_ptr<grpc::Server>> Listen(
    grpc::ServerBuilder& builder, const std::string& listen,
    const std::shared_ptr<grpc::ServerCredentials>& credentials, std::string& address) {
  std::string host, port;
  if (!SplitAddress(listen, host, port)) {
    return absl::InvalidArgumentError(
        absl::StrCat("listen address is '", listen, "', expected HOST:PORT"));
  }
  int bound_port = 0;
  builder.AddListeningPort(listen, credentials, &bound_port);
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);  // a port in use is an error
  SetKeepalive(builder);
  auto server = builder.BuildAndStart();
  if (server == nullptr || bound_port == 0) {
    return absl::AlreadyExistsError(absl::StrCat("cannot listen on ", listen, " (port in use?)"));
  }
  address = absl::StrCat(listen.substr(0, listen.rfind(':')), ":", bound_port);
  return server;
}

// Its name in gRPC 1.51; server_test and tests/e2e see whether it still is.
constexpr char kReflectionPlugin[] = "proto_server_reflection";

/// Takes reflection away, which its library gives to every server of a process.
class WithoutReflection : public grpc::ServerBuilderOption {
 public:
  void UpdateArguments(grpc::ChannelArguments* /*arguments*/) override {}
  void UpdatePlugins(std::vector<std::unique_ptr<grpc::ServerBuilderPlugin>>* plugins) override {
    std::erase_if(*plugins, [](const auto& plugin) { return plugin->name() == kReflectionPlugin; });
  }
};

}  // namespace

absl::StatusOr<std::string> CheckAddressFree(const std::string& flag, const std::string& address) {
  std::string host, port;
  if (!SplitAddress(address, host, port)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--", flag, " is '", address, "', expected HOST:PORT with a port up to 65535"));
  }
  addrinfo hints{}, *found = nullptr;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE;
  if (getaddrinfo(host.empty() ? nullptr : host.c_str(), port.c_str(), &hints, &found) != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("--", flag, " is '", address, "', whose host '", host, "' is unknown"));
  }
  const absl::Cleanup free_found = [found] { freeaddrinfo(found); };
  const int descriptor = socket(found->ai_family, found->ai_socktype, 0);
  const int on = 1;  // a port whose last connections are still closing is free
  setsockopt(descriptor, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  const bool bound = descriptor >= 0 && bind(descriptor, found->ai_addr, found->ai_addrlen) == 0;
  const int error = errno;
  if (descriptor >= 0) close(descriptor);
  if (!bound) {
    return absl::ErrnoToStatus(error, absl::StrCat("--", flag, ": cannot listen on ", address));
  }
  char number[NI_MAXHOST];
  getnameinfo(found->ai_addr, found->ai_addrlen, number, sizeof(number), nullptr, 0,
              NI_NUMERICHOST);
  return absl::StrCat(found->ai_family == AF_INET6 ? absl::StrCat("[", number, "]") : number, ":",
                      port);
}

absl::StatusOr<std::unique_ptr<Server>> Server::Start(engine::Engine* engine,
                                                      engine::MetricsObserver* metrics,
                                                      const PortOptions& port,
                                                      const ServiceInfo& info) {
  static const bool once = [] {
    grpc::EnableDefaultHealthCheckService(true);
    grpc::reflection::InitProtoReflectionServerBuilderPlugin();
    return true;
  }();
  (void)once;
  auto server = absl::WrapUnique(new Server(engine, metrics, info));
  if (absl::Status status = server->StartMain(port); !status.ok()) return status;
  if (absl::Status status = server->StartForGateways(port); !status.ok()) return status;
  server->SetServing(false);
  return server;
}

absl::Status Server::StartMain(const PortOptions& port) {
  grpc::ServerBuilder builder;
  if (!port.reflection) builder.SetOption(std::make_unique<WithoutReflection>());
  builder.SetMaxReceiveMessageSize(static_cast<int>(intake_.info().max_message_bytes));
  builder.RegisterService(&service_);
  builder.RegisterService(&vllm_service_);
  auto server = Listen(builder, port.listen, port.credentials, address_);
  if (!server.ok()) return server.status();
  server_ = *std::move(server);
  return absl::OkStatus();
}

absl::Status Server::StartForGateways(const PortOptions& port) {
  if (port.gateway_listen.empty()) return absl::OkStatus();
  grpc::ServerBuilder builder;
  builder.SetOption(std::make_unique<WithoutReflection>());
  builder.SetMaxReceiveMessageSize(static_cast<int>(intake_.info().max_message_bytes));
  builder.RegisterService(&gateway_service_);
  auto server =
      Listen(builder, port.gateway_listen, grpc::InsecureServerCredentials(), gateway_address_);
  if (!server.ok()) return server.status();
  gateway_server_ = *std::move(server);
  return absl::OkStatus();
}

Server::~Server() { Shutdown(absl::Now()); }

void Server::Shutdown(absl::Time deadline) {
  if (std::exchange(shut_down_, true)) return;
  vllm_service_.Shutdown();
  gateway_service_.Shutdown();
  const auto shut_down = [deadline](grpc::Server& server) {
    server.Shutdown(absl::ToChronoTime(deadline));
    server.Wait();
  };
  // Both at a time: each takes until its calls have ended.
  std::thread other;
  if (gateway_server_ != nullptr) other = std::thread([&] { shut_down(*gateway_server_); });
  if (server_ != nullptr) shut_down(*server_);
  if (other.joinable()) other.join();
}

void Server::SetServing(bool serving) {
  intake_.set_serving(serving);
  for (const auto* server : {&server_, &gateway_server_}) {
    if (*server == nullptr) continue;
    grpc::HealthCheckServiceInterface* health = (*server)->GetHealthCheckService();
    health->SetServingStatus("", serving);
    health->SetServingStatus(wire::VllmEngine::service_full_name(), serving);
  }
  server_->GetHealthCheckService()->SetServingStatus(v1::InferenceService::service_full_name(),
                                                     serving);
}

}  // namespace nsa::server
