#ifndef NSA_SERVER_SECURITY_CREDENTIALS_H_
#define NSA_SERVER_SECURITY_CREDENTIALS_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "grpcpp/grpcpp.h"
#include "server/security/api_key_file.h"

namespace nsa::server {

/// PEM files; empty paths: none.
struct SecurityOptions {
  std::string tls_cert;       // the server's certificate chain
  std::string tls_key;        // its private key
  std::string tls_client_ca;  // who signs certificates of clients: mutual TLS
  std::string api_keys_file;  // ApiKeys

  bool HasTls() const { return !tls_cert.empty() || !tls_key.empty(); }
};

/// How a port answers: plain, TLS, mutual TLS; with the check of calls where there is one.
/// Certificates are read again within seconds of their rotation. `keys` may be null and outlives
/// the server. `listen`: HOST:PORT.
///
/// InvalidArgument, beginning with the flag: a file that cannot be read or is no PEM, a key that
/// does not belong to its certificate, a certificate that has expired, and keys on a plain port
/// that other machines reach (they would travel in the clear).
absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> MakeServerCredentials(
    const SecurityOptions& options, const ApiKeyFile* keys, const std::string& listen);

}  // namespace nsa::server

#endif  // NSA_SERVER_SECURITY_CREDENTIALS_H_
