#ifndef NSA_SERVER_STATUS_H_
#define NSA_SERVER_STATUS_H_

#include "absl/status/status.h"
#include "grpcpp/grpcpp.h"

namespace nsa::server {

/// The same code and message. A retry hint (engine/admission.h) becomes google.rpc.RetryInfo in the
/// details, which gRPC sends as "grpc-status-details-bin".
grpc::Status ToGrpc(const absl::Status& status);

/// Ends a call whose response is filled.
grpc::ServerUnaryReactor* Reply(grpc::CallbackServerContext* context, const absl::Status& status);

}  // namespace nsa::server

#endif  // NSA_SERVER_STATUS_H_
