#include "client/channel.h"

#include <cstdlib>
#include <fstream>
#include <iterator>
#include <string>
#include <utility>

#include "absl/flags/flag.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "client/flags.h"

ABSL_FLAG(std::string, tls_ca, "",
          "PEM file of who signed the server's certificate; given: the connection is TLS");
ABSL_FLAG(std::string, tls_cert, "", "PEM file of this client's certificate, for mutual TLS");
ABSL_FLAG(std::string, tls_key, "", "PEM file of its private key");
ABSL_FLAG(std::string, api_key_file, "",
          "file that holds the API key; default: the environment's NSA_API_KEY");

namespace nsa::client {
namespace {

ConnectOptions& Connection() {
  static auto* const connection = new ConnectOptions;
  return *connection;
}

absl::Status ReadFile(const char* flag, const std::string& path, std::string& text) {
  if (path.empty()) return absl::OkStatus();
  std::ifstream file(path, std::ios::binary);
  text.assign(std::istreambuf_iterator<char>(file), {});
  if (file.is_open() && !file.bad() && !text.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("--", flag, ": cannot read '", path, "'"));
}

}  // namespace

const FlagGroup& SecurityFlagGroup() {
  static const auto* const group =
      new FlagGroup{"Security", {"tls_ca", "tls_cert", "tls_key", "api_key_file"}};
  return *group;
}

absl::Status ReadSecurityFiles() {
  ConnectOptions& connection = Connection();
  connection.address = ServerAddress();
  const std::string ca = absl::GetFlag(FLAGS_tls_ca), cert = absl::GetFlag(FLAGS_tls_cert),
                    key = absl::GetFlag(FLAGS_tls_key);
  if (cert.empty() != key.empty() || (!cert.empty() && ca.empty())) {
    return absl::InvalidArgumentError(
        "--tls_cert and --tls_key belong together, and need --tls_ca");
  }
  Tls tls;
  std::string& api_key = connection.api_key;
  for (const absl::Status& status :
       {ReadFile("tls_ca", ca, tls.ca), ReadFile("tls_cert", cert, tls.cert),
        ReadFile("tls_key", key, tls.key),
        ReadFile("api_key_file", absl::GetFlag(FLAGS_api_key_file), api_key)}) {
    if (!status.ok()) return status;
  }
  if (!ca.empty()) connection.tls = std::move(tls);
  const char* variable = std::getenv("NSA_API_KEY");
  if (api_key.empty() && variable != nullptr) api_key = variable;
  absl::StripAsciiWhitespace(&api_key);
  if (CheckOptions(connection).ok()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      "an API key goes to another machine over TLS alone: give --tls_ca");
}

const ConnectOptions& TheConnection() { return Connection(); }

std::shared_ptr<grpc::Channel> NewChannel(const grpc::ChannelArguments& arguments) {
  std::shared_ptr<grpc::Channel> channel;
  (void)MakeChannel(TheConnection(), arguments, channel);  // ReadSecurityFiles has checked them
  return channel;
}

}  // namespace nsa::client
