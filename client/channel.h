#ifndef NSA_CLIENT_CHANNEL_H_
#define NSA_CLIENT_CHANNEL_H_

#include <memory>

#include "absl/status/status.h"
#include "client/library/client.h"
#include "grpcpp/grpcpp.h"
#include "server/command_line/command_line.h"

namespace nsa::client {

/// --tls_ca, --tls_cert, --tls_key, --api_key_file.
const FlagGroup& SecurityFlagGroup();

/// Reads the files that the flags name; InvalidArgument, beginning with the flag, where one cannot
/// be read, or where a key would travel in the clear to another machine. Once, before NewChannel.
absl::Status ReadSecurityFiles();

/// To --server, with what the files hold. Never printed.
const ConnectOptions& TheConnection();

/// A connection to --server: TLS where --tls_ca is given; each call carries the key of
/// --api_key_file, or of the environment's NSA_API_KEY.
std::shared_ptr<grpc::Channel> NewChannel(const grpc::ChannelArguments& arguments);

}  // namespace nsa::client

#endif  // NSA_CLIENT_CHANNEL_H_
