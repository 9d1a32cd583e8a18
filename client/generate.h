#ifndef NSA_CLIENT_GENERATE_H_
#define NSA_CLIENT_GENERATE_H_

#include "grpcpp/support/status.h"
#include "nsa/v1/inference.grpc.pb.h"

namespace nsa::client {

/// Keeps Ctrl-C and SIGTERM for Generate. Before the first thread starts, so before a channel: a
/// signal ends the process in any thread that does not block it.
void BlockInterrupts();

/// Streams one completion to standard output as it is generated (or as JSON, one object a message);
/// progress of a long prompt, usage and speeds go to standard error. Ctrl-C (see BlockInterrupts)
/// cancels the call, and the server then ends the request; CANCELLED is returned. ABORTED where
/// another ended the request.
grpc::Status Generate(v1::InferenceService::Stub& stub, const v1::GenerateRequest& request);

}  // namespace nsa::client

#endif  // NSA_CLIENT_GENERATE_H_
