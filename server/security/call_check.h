#ifndef NSA_SERVER_SECURITY_CALL_CHECK_H_
#define NSA_SERVER_SECURITY_CALL_CHECK_H_

#include <string_view>

#include "grpcpp/grpcpp.h"
#include "grpcpp/security/auth_metadata_processor.h"
#include "server/security/api_key_file.h"

namespace nsa::server {

/// The key that a call came with; empty where there is none, or more than one. Not what the check
/// may leave in the call's AuthContext: that is its connection's, which calls with other keys
/// share.
std::string_view ApiKeyOf(const grpc::AuthMetadataProcessor::InputMetadata& metadata);

/// Decides about a call before any service sees it, reflection and unknown services among them.
/// Health answers to anybody; all else needs metadata "authorization: Bearer KEY" where there are
/// keys, and a client certificate where these are asked for; otherwise UNAUTHENTICATED. gRPC's
/// threads.
class CallCheck : public grpc::AuthMetadataProcessor {
 public:
  /// `keys` may be null.
  CallCheck(const ApiKeyFile* keys, bool needs_certificate)
      : keys_(keys), needs_certificate_(needs_certificate) {}

  bool IsBlocking() const override { return false; }
  grpc::Status Process(const InputMetadata& metadata, grpc::AuthContext* context,
                       OutputMetadata* consumed, OutputMetadata* response) override;

 private:
  const ApiKeyFile* keys_;
  bool needs_certificate_;
};

}  // namespace nsa::server

#endif  // NSA_SERVER_SECURITY_CALL_CHECK_H_
