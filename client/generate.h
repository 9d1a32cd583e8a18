#ifndef NSA_CLIENT_GENERATE_H_
#define NSA_CLIENT_GENERATE_H_

#include "grpcpp/support/status.h"
#include "nsa/v1/inference.pb.h"

namespace nsa::client {

/// Streams one completion of --server to standard output as it is generated (or as JSON, one object
/// a message); progress of a long prompt, usage and speeds go to standard error. Ctrl-C (see
/// interrupts.h) cancels the call, and the server then ends the request; CANCELLED is returned.
/// ABORTED where another ended the request.
grpc::Status Generate(const v1::GenerateRequest& request);

}  // namespace nsa::client

#endif  // NSA_CLIENT_GENERATE_H_
