#include "client/channel.h"

#include <cstdlib>
#include <fstream>
#include <iterator>
#include <string>
#include <utility>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "client/flags.h"
#include "grpcpp/support/client_interceptor.h"
#include "server/command_line/address.h"

ABSL_FLAG(std::string, tls_ca, "",
          "PEM file of who signed the server's certificate; given: the connection is TLS");
ABSL_FLAG(std::string, tls_cert, "", "PEM file of this client's certificate, for mutual TLS");
ABSL_FLAG(std::string, tls_key, "", "PEM file of its private key");
ABSL_FLAG(std::string, api_key_file, "",
          "file that holds the API key; default: the environment's NSA_API_KEY");

namespace nsa::client {
namespace {

namespace experimental = grpc::experimental;

/// What the files hold. Never printed.
struct Security {
  grpc::SslCredentialsOptions tls;
  bool has_tls = false;
  std::string api_key;
};

Security& TheSecurity() {
  static auto* const security = new Security;
  return *security;
}

absl::Status ReadFile(const char* flag, const std::string& path, std::string& text) {
  if (path.empty()) return absl::OkStatus();
  std::ifstream file(path, std::ios::binary);
  text.assign(std::istreambuf_iterator<char>(file), {});
  if (file.is_open() && !file.bad() && !text.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("--", flag, ": cannot read '", path, "'"));
}

/// Adds the key to a call. Call credentials would do so on TLS alone.
class KeyInterceptor : public experimental::Interceptor {
 public:
  void Intercept(experimental::InterceptorBatchMethods* methods) override {
    if (methods->QueryInterceptionHookPoint(
            experimental::InterceptionHookPoints::PRE_SEND_INITIAL_METADATA)) {
      methods->GetSendInitialMetadata()->emplace("authorization",
                                                 "Bearer " + TheSecurity().api_key);
    }
    methods->Proceed();
  }
};

class KeyInterceptorFactory : public experimental::ClientInterceptorFactoryInterface {
 public:
  experimental::Interceptor* CreateClientInterceptor(experimental::ClientRpcInfo*) override {
    return new KeyInterceptor;
  }
};

}  // namespace

const FlagGroup& SecurityFlagGroup() {
  static const auto* const group =
      new FlagGroup{"Security", {"tls_ca", "tls_cert", "tls_key", "api_key_file"}};
  return *group;
}

absl::Status ReadSecurityFiles() {
  Security& security = TheSecurity();
  const std::string ca = absl::GetFlag(FLAGS_tls_ca), cert = absl::GetFlag(FLAGS_tls_cert),
                    key = absl::GetFlag(FLAGS_tls_key);
  security.has_tls = !ca.empty();
  if (cert.empty() != key.empty() || (!cert.empty() && ca.empty())) {
    return absl::InvalidArgumentError(
        "--tls_cert and --tls_key belong together, and need --tls_ca");
  }
  for (const absl::Status& status :
       {ReadFile("tls_ca", ca, security.tls.pem_root_certs),
        ReadFile("tls_cert", cert, security.tls.pem_cert_chain),
        ReadFile("tls_key", key, security.tls.pem_private_key),
        ReadFile("api_key_file", absl::GetFlag(FLAGS_api_key_file), security.api_key)}) {
    if (!status.ok()) return status;
  }
  const char* variable = std::getenv("NSA_API_KEY");
  if (security.api_key.empty() && variable != nullptr) security.api_key = variable;
  absl::StripAsciiWhitespace(&security.api_key);
  if (security.api_key.empty() || security.has_tls || IsLoopback(ServerAddress())) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      "an API key goes to another machine over TLS alone: give --tls_ca");
}

std::shared_ptr<grpc::Channel> NewChannel(const grpc::ChannelArguments& arguments) {
  const Security& security = TheSecurity();
  const auto credentials =
      security.has_tls ? grpc::SslCredentials(security.tls) : grpc::InsecureChannelCredentials();
  std::vector<std::unique_ptr<experimental::ClientInterceptorFactoryInterface>> interceptors;
  if (!security.api_key.empty()) {
    interceptors.push_back(std::make_unique<KeyInterceptorFactory>());
  }
  return experimental::CreateCustomChannelWithInterceptors(ServerAddress(), credentials, arguments,
                                                           std::move(interceptors));
}

}  // namespace nsa::client
