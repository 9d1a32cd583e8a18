#include "server/server.h"

#include <netdb.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
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
                                                      const PortOptions& options,
                                                      const InferenceService::Info& info) {
  const std::string& listen = options.listen;
  std::string host, port;
  if (!SplitAddress(listen, host, port)) {
    return absl::InvalidArgumentError(
        absl::StrCat("listen address is '", listen, "', expected HOST:PORT"));
  }
  static const bool once = [] {
    grpc::EnableDefaultHealthCheckService(true);
    grpc::reflection::InitProtoReflectionServerBuilderPlugin();
    return true;
  }();
  (void)once;
  auto server = absl::WrapUnique(new Server());
  server->service_ = std::make_unique<InferenceService>(engine, metrics, info);
  grpc::ServerBuilder builder;
  int bound_port = 0;
  builder.AddListeningPort(listen, options.credentials, &bound_port);
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);  // a port in use is an error
  SetKeepalive(builder);
  if (!options.reflection) builder.SetOption(std::make_unique<WithoutReflection>());
  builder.SetMaxReceiveMessageSize(static_cast<int>(info.max_message_bytes));
  builder.RegisterService(server->service_.get());
  server->server_ = builder.BuildAndStart();
  if (server->server_ == nullptr || bound_port == 0) {
    return absl::AlreadyExistsError(absl::StrCat("cannot listen on ", listen, " (port in use?)"));
  }
  server->address_ = absl::StrCat(listen.substr(0, listen.rfind(':')), ":", bound_port);
  server->SetServing(false);
  return server;
}

Server::~Server() {
  if (server_ != nullptr) Shutdown(absl::Now());
}

void Server::Shutdown(absl::Time deadline) {
  if (std::exchange(shut_down_, true)) return;
  server_->Shutdown(absl::ToChronoTime(deadline));
  server_->Wait();
}

void Server::SetServing(bool serving) {
  grpc::HealthCheckServiceInterface* health = server_->GetHealthCheckService();
  health->SetServingStatus("", serving);
  health->SetServingStatus(v1::InferenceService::service_full_name(), serving);
}

}  // namespace nsa::server
