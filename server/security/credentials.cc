#include "server/security/credentials.h"

#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>

#include <cstdio>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/freed_by.h"
#include "grpcpp/security/server_credentials.h"
#include "grpcpp/security/tls_certificate_provider.h"
#include "grpcpp/security/tls_credentials_options.h"
#include "server/command_line/address.h"
#include "server/security/call_check.h"

namespace nsa::server {
namespace {

// How often rotated files are looked for.
constexpr unsigned kRefreshSeconds = 1;

using Certificate = std::unique_ptr<X509, engine::FreedBy<X509_free>>;
using PrivateKey = std::unique_ptr<EVP_PKEY, engine::FreedBy<EVP_PKEY_free>>;
using File = std::unique_ptr<std::FILE, engine::FreedBy<std::fclose>>;

absl::Status Bad(const char* flag, const std::string& path, const char* what) {
  return absl::InvalidArgumentError(absl::StrCat("--", flag, " '", path, "' ", what));
}

File OpenFile(const std::string& path) { return File(std::fopen(path.c_str(), "rb")); }

absl::StatusOr<Certificate> ReadCertificate(const char* flag, const std::string& path) {
  const File file = OpenFile(path);
  if (file == nullptr) return Bad(flag, path, "cannot be read");
  Certificate certificate(PEM_read_X509(file.get(), nullptr, nullptr, nullptr));
  if (certificate == nullptr) return Bad(flag, path, "holds no certificate in PEM form");
  if (X509_cmp_current_time(X509_get0_notAfter(certificate.get())) < 0) {
    return Bad(flag, path, "holds a certificate that has expired");
  }
  return certificate;
}

/// A key behind a password is refused: nobody is there to type it.
int NoPassword(char* /*buffer*/, int /*size*/, int /*writing*/, void* /*user*/) { return 0; }

absl::Status CheckPair(const SecurityOptions& options) {
  if (options.tls_cert.empty()) return Bad("tls_key", options.tls_key, "needs --tls_cert as well");
  if (options.tls_key.empty()) return Bad("tls_cert", options.tls_cert, "needs --tls_key as well");
  const auto certificate = ReadCertificate("tls_cert", options.tls_cert);
  if (!certificate.ok()) return certificate.status();
  const File file = OpenFile(options.tls_key);
  if (file == nullptr) return Bad("tls_key", options.tls_key, "cannot be read");
  const PrivateKey key(PEM_read_PrivateKey(file.get(), nullptr, NoPassword, nullptr));
  if (key == nullptr)
    return Bad("tls_key", options.tls_key, "holds no plain private key in PEM form");
  if (X509_check_private_key(certificate->get(), key.get()) != 1) {
    return Bad("tls_key", options.tls_key, "does not belong to the certificate of --tls_cert");
  }
  return absl::OkStatus();
}

std::shared_ptr<grpc::ServerCredentials> TlsCredentials(const SecurityOptions& options) {
  const bool mutual = !options.tls_client_ca.empty();
  grpc::experimental::TlsServerCredentialsOptions tls(
      std::make_shared<grpc::experimental::FileWatcherCertificateProvider>(
          options.tls_key, options.tls_cert, options.tls_client_ca, kRefreshSeconds));
  tls.watch_identity_key_cert_pairs();
  if (mutual) tls.watch_root_certs();
  // Health probes come without a certificate; CallCheck asks everybody else for one.
  tls.set_cert_request_type(mutual ? GRPC_SSL_REQUEST_CLIENT_CERTIFICATE_AND_VERIFY
                                   : GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE);
  return grpc::experimental::TlsServerCredentials(tls);
}

}  // namespace

absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> MakeServerCredentials(
    const SecurityOptions& options, const ApiKeyFile* keys, const std::string& listen) {
  const bool mutual = !options.tls_client_ca.empty();
  std::shared_ptr<grpc::ServerCredentials> credentials;
  if (options.HasTls()) {
    if (const absl::Status status = CheckPair(options); !status.ok()) return status;
    if (mutual) {
      const auto root = ReadCertificate("tls_client_ca", options.tls_client_ca);
      if (!root.ok()) return root.status();
    }
    credentials = TlsCredentials(options);
  } else if (mutual) {
    return Bad("tls_client_ca", options.tls_client_ca, "needs --tls_cert and --tls_key as well");
  } else if (keys == nullptr) {
    return grpc::InsecureServerCredentials();
  } else if (IsLoopback(listen)) {
    // Plain, and closed to connections from elsewhere: gRPC's plain credentials know no check.
    credentials = grpc::experimental::LocalServerCredentials(LOCAL_TCP);
  } else {
    return absl::InvalidArgumentError(
        absl::StrCat("--api_keys_file on --listen '", listen,
                     "' needs --tls_cert and --tls_key: keys would travel in the clear (without "
                     "TLS it must be 127.0.0.1, [::1] or localhost)"));
  }
  if (mutual || keys != nullptr) {
    credentials->SetAuthMetadataProcessor(std::make_shared<CallCheck>(keys, mutual));
  }
  return credentials;
}

}  // namespace nsa::server
